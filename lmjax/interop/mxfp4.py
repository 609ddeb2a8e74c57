"""Weights in MXFP4 (Open Compute Project 2023, Microscaling Formats), as gpt-oss is published: read exactly.

A tensor ``name`` is stored as ``name_blocks`` and ``name_scales``: 32 numbers of four bits (a sign, two bits of
exponent, one of mantissa) in 16 bytes, the even ones in the low halves, and for each such block the exponent of a
power of two that multiplies them, 127 more than it is. Every product is a bfloat16 number too. The inputs of the
projection are its last axis there; here they come before its outputs, as in the tensor's plain form.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from lmjax.interop.tensors import Weights

BLOCKS, SCALES = "_blocks", "_scales"
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = np.array([*_POSITIVE, *(-value for value in _POSITIVE)], np.float32)


class Dequantised(Mapping[str, np.ndarray]):
    """The tensors of a folder, those in MXFP4 under their plain names; others are passed on."""

    def __init__(self, weights: Weights):
        """Finds the pairs; reads none."""
        self._weights = weights
        stems = {name.removesuffix(BLOCKS) for name in weights if name.endswith(BLOCKS)}
        self._quantised = {stem for stem in stems if stem + SCALES in weights}
        halves = {stem + half for stem in self._quantised for half in (BLOCKS, SCALES)}
        self._names = dict.fromkeys([*(name for name in weights if name not in halves), *sorted(self._quantised)])

    def __getitem__(self, name: str) -> np.ndarray:
        """The tensor, in float32.

        Raises:
          ValueError: it is not what its format says, or not made of floating-point numbers.
        """
        if name not in self._quantised:
            return self._weights[name]
        blocks, scales = self._weights.read_bytes(name + BLOCKS), self._weights.read_bytes(name + SCALES)
        if blocks.ndim < 2 or blocks.shape[:-1] != scales.shape or blocks.shape[-1] != 16 or np.any(scales == 255):
            raise ValueError(
                f"{self._weights.folder}: tensor {name + BLOCKS!r} {list(blocks.shape)} with {name + SCALES!r} "
                f"{list(scales.shape)} is not MXFP4: download it again"
            )
        return dequantise(blocks, scales).swapaxes(-1, -2)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def dequantise(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Numbers in float32, [..., 32 G], of bytes [..., G, 16] and exponents [..., G]."""
    numbers = np.stack([_VALUES[blocks & 15], _VALUES[blocks >> 4]], axis=-1)
    powers = np.ldexp(np.float32(1), scales.astype(np.int32) - 127)
    with np.errstate(over="ignore"):
        numbers *= powers[..., None, None]
    return numbers.reshape(*scales.shape[:-1], -1)
