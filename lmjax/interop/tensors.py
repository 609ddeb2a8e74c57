"""Reads and writes the weights of a Hugging Face folder: safetensors, in one file or in shards with an index.

Pickled weights (``.bin``, ``.pt``) can run code when they are opened, so they are refused by name.
"""

import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lmjax.atomic_files import write_json
from lmjax.parallel.contained import file_inside

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")


class Weights(Mapping[str, np.ndarray]):
    """The tensors of a folder by name, each read as float32 when it is asked for."""

    def __init__(self, folder: pathlib.Path):
        """Finds the file of each tensor, and reads no tensor yet.

        Raises:
          ValueError: there are no safetensors, or one of their files is missing, damaged, or not what the
            index says.
        """
        self.folder = folder
        self._file_of = self._indexed() if (folder / INDEX).exists() else self._single()

    def _single(self) -> dict[str, pathlib.Path]:
        path = file_inside(self.folder, SINGLE)
        if path.exists():
            with _opened(path) as file:
                return dict.fromkeys(file.keys(), path)
        pickled = sorted(found.name for pattern in _PICKLED for found in self.folder.glob(pattern))
        if pickled:
            raise ValueError(
                f"{self.folder} holds its weights as {pickled[0]}, which is not safetensors and could run code when "
                f"opened: convert it where you trust it (save_pretrained of transformers writes {SINGLE})"
            )
        raise ValueError(f"{self.folder} has neither {SINGLE} nor {INDEX}: give a folder with safetensors weights")

    def _indexed(self) -> dict[str, pathlib.Path]:
        index = self.folder / INDEX
        try:
            weight_map = json.loads(index.read_text())["weight_map"]
            files = set(weight_map.values())
            if not all(isinstance(file, str) for file in files):
                raise TypeError("a file's name is no text")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{index} is not an index of safetensors ({error!r}): download it again") from None
        paths = {file: file_inside(self.folder, file) for file in sorted(files)}
        file_of = {name: paths[file] for name, file in weight_map.items()}
        for path in sorted(set(file_of.values())):
            if not path.exists():
                raise ValueError(f"{path} is missing, and {INDEX} lists it: download it")
            with _opened(path) as file:
                there = set(file.keys())
            absent = sorted(name for name, place in file_of.items() if place == path and name not in there)
            if absent:
                raise ValueError(f"{path} has no tensor {absent[0]!r}, though {INDEX} says so: download it again")
        return file_of

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns the tensor, in float32.

        Raises:
          ValueError: the tensor does not hold floating-point numbers.
        """
        path = self._file_of[name]
        with _opened(path) as file:
            kind = file.get_slice(name).get_dtype()
            if kind not in ("F64", "F32", "F16", "BF16"):
                raise ValueError(
                    f"{path}: tensor {name!r} is {kind}, quantised perhaps: give weights in F32, BF16 or F16"
                )
            return file.get_tensor(name).astype(np.float32)

    def read_bytes(self, name: str) -> np.ndarray:
        """Returns a tensor of bytes (uint8), such as quantised weights.

        Raises:
          ValueError: the tensor holds something else.
        """
        path = self._file_of[name]
        with _opened(path) as file:
            kind = file.get_slice(name).get_dtype()
            if kind != "U8":
                raise ValueError(f"{path}: tensor {name!r} is {kind}, and should be of bytes (U8): download it again")
            return file.get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def write_weights(
    folder: pathlib.Path,
    shapes: Mapping[str, tuple[int, ...]],
    value: Callable[[str], np.ndarray],
    *,
    dtype: np.dtype,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes tensors as ``model.safetensors``, or as shards and an index when they are more than ``shard_bytes``.

    Args:
      folder: an existing folder.
      shapes: shape of each tensor, by name; their order is the order in the files.
      value: returns the tensor of a name; called for one shard at a time.
      dtype: dtype of the stored tensors.
      shard_bytes: largest size of a shard, unless a single tensor is larger.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    names = [SINGLE] if len(shards) == 1 else [_shard_name(i, len(shards)) for i in range(len(shards))]
    for file_name, members in zip(names, shards, strict=True):
        tensors = {name: np.ascontiguousarray(value(name).astype(dtype)) for name in members}
        # transformers refuses a file without this entry.
        save_file(tensors, folder / file_name, metadata={"format": "pt"})
    if len(shards) > 1:
        total = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
        weight_map = {name: file for file, members in zip(names, shards, strict=True) for name in members}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)


def _shard_name(index: int, count: int) -> str:
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def _opened(path: pathlib.Path):
    try:
        return safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{path} is not safetensors, or damaged ({error}): download it again") from None
