"""Reads weights in MXFP4 (Open Compute Project 2023, Microscaling Formats), the format of gpt-oss, without rounding.

A tensor ``name`` is stored as two tensors. ``name_blocks`` holds blocks of 32 numbers in 16 bytes. A number has four
bits (a sign, two bits of exponent, one of mantissa), and even numbers are in the low halves of the bytes.
``name_scales`` holds an exponent for each block, stored with 127 added: the numbers of the block are multiplied by
that power of two. Every product is also a bfloat16 number. In the file, the inputs of a projection are on its last
axis; here they come before its outputs, as in the tensor's plain form.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from lmjax.interop.tensors import Weights

BLOCKS, SCALES = "_blocks", "_scales"
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = np.array([*_POSITIVE, *(-value for value in _POSITIVE)], np.float32)


class Dequantised(Mapping[str, np.ndarray]):
    """The tensors of a folder by name. Those in MXFP4 have their plain names; all others are passed on unchanged."""

    def __init__(self, weights: Weights):
        """Finds the pairs of blocks and scales, and reads none of them yet."""
        self._weights = weights
        stems = {name.removesuffix(BLOCKS) for name in weights if name.endswith(BLOCKS)}
        self._quantised = {stem for stem in stems if stem + SCALES in weights}
        halves = {stem + half for stem in self._quantised for half in (BLOCKS, SCALES)}
        self._names = dict.fromkeys([*(name for name in weights if name not in halves), *sorted(self._quantised)])

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns the tensor, in float32.

        Raises:
          ValueError: the tensor is not valid MXFP4, or not made of floating-point numbers.
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
    """Returns the numbers, float32 [..., 32 G], from bytes [..., G, 16] and exponents [..., G]."""
    numbers = np.stack([_VALUES[blocks & 15], _VALUES[blocks >> 4]], axis=-1)
    powers = np.ldexp(np.float32(1), scales.astype(np.int32) - 127)
    with np.errstate(over="ignore"):
        numbers *= powers[..., None, None]
    return numbers.reshape(*scales.shape[:-1], -1)
