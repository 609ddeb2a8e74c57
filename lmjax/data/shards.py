"""Token shards on disk: plain little-endian arrays, and a JSON manifest that can vouch for them.

A shard is ``NAME.bin`` (token ids), ``NAME.idx`` (int64 document bounds: 0, end of the first
document, ..., number of tokens) and, when documents carry loss weights, ``NAME.wts`` (float16, one
a token). Every file is written aside and renamed, so a name that exists is a file that is whole.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from typing import IO

import numpy as np

FORMAT = 1
MANIFEST = "manifest.json"
SPLITS = ("train", "valid")
BOUND_DTYPE = np.dtype("<i8")
WEIGHT_DTYPE = np.dtype("<f2")


def token_dtype(vocabulary_size: int) -> np.dtype:
    """The narrowest type for the ids of a vocabulary: uint16 up to 65,536 of them, else uint32."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size in bytes and sha256 (hex) of a file."""

    size: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """What the manifest says of one shard; ``text_bytes`` counts the UTF-8 bytes of its documents' text."""

    name: str
    split: str
    tokens: int
    documents: int
    text_bytes: int
    files: dict[str, FileRecord]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything known of a prepared folder.

    Attributes:
      dtype: numpy name of the token type.
      weighted: whether ``.wts`` files lie beside the tokens.
      vocabulary_size: ids are below this.
      pad_id: the id that fills packed rows; 0 when the tokenizer has no padding token.
      tokenizer_fingerprint: of the tokenizer that made the ids.
      settings: the data config's fields that decided the content.
      source: path, number of files and bytes, and fingerprint of what was read.
      shards: in stream order.
      empty_documents: documents without text, which are left out.
      undecodable: bytes that were not UTF-8, by file name.
    """

    dtype: str
    weighted: bool
    vocabulary_size: int
    pad_id: int
    tokenizer_fingerprint: str
    settings: dict
    source: dict
    shards: tuple[Shard, ...]
    empty_documents: int = 0
    undecodable: dict[str, int] = dataclasses.field(default_factory=dict)

    def total(self, split: str, quantity: str) -> int:
        """Sum over a split's shards of ``"tokens"``, ``"documents"`` or ``"text_bytes"``."""
        return sum(getattr(shard, quantity) for shard in self.shards if shard.split == split)

    @property
    def fingerprint(self) -> str:
        """Hex digest of the content: what rows are a function of, besides seed, length and index."""
        content = [self.dtype, [[shard.split, *_digests(shard)] for shard in self.shards]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def save(self, folder: pathlib.Path) -> None:
        """Writes ``manifest.json`` in one step."""
        write_json(folder / MANIFEST, {"format": FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def load(cls, folder: pathlib.Path | str) -> "Manifest":
        """Reads ``manifest.json``.

        Raises:
          ValueError: there is none, or it is not one this version can read.
        """
        path = pathlib.Path(folder) / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{path}: not found: make the shards first, with lmjax prepare") from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise ValueError(f"{path}: damaged (not JSON): delete the folder and prepare the data again") from None
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f"{path}: not of format {FORMAT}: prepare the data again with this version")
        try:
            shards = tuple(shard_from_json(shard) for shard in content.pop("shards"))
            return cls(shards=shards, **content)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: damaged ({error}): delete the folder and prepare the data again") from None


def _digests(shard: Shard) -> list[str]:
    return [shard.files[name].sha256 for name in sorted(shard.files)]


def shard_from_json(content: dict) -> Shard:
    """The inverse of ``dataclasses.asdict`` for a :class:`Shard`."""
    files = {name: FileRecord(**record) for name, record in content["files"].items()}
    return Shard(**{**content, "files": files})


def write_json(path: pathlib.Path, content: object) -> None:
    """Writes JSON so that the name holds the old content or the new one, never part of either."""
    partial = partial_path(path)
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def partial_path(path: pathlib.Path) -> pathlib.Path:
    """Where this process writes ``path`` before it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


class _HashedFile:
    """An array file being written aside, hashed on the way."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._partial = partial_path(path)
        self._file: IO[bytes] = open(self._partial, "wb")  # noqa: SIM115 (closed by finish and discard)
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, array: np.ndarray) -> None:
        content = array.tobytes()
        self._digest.update(content)
        self._size += len(content)
        self._file.write(content)

    def finish(self) -> FileRecord:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._partial, self.path)
        return FileRecord(size=self._size, sha256=self._digest.hexdigest())

    def discard(self) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)


class ShardWriter:
    """Writes one shard, document by document, in memory that does not grow with its tokens."""

    def __init__(self, folder: pathlib.Path | str, name: str, *, split: str, vocabulary_size: int, weighted: bool):
        """Opens the files of the shard ``name`` in ``folder``, aside until :meth:`finish`."""
        self._folder = pathlib.Path(folder)
        self._name = name
        self._split = split
        self._vocabulary_size = vocabulary_size
        self._dtype = token_dtype(vocabulary_size)
        self._tokens = _HashedFile(self._folder / f"{name}.bin")
        self._weights = _HashedFile(self._folder / f"{name}.wts") if weighted else None
        self._bounds = [0]
        self._text_bytes = 0

    def add(self, ids: Iterable[int] | np.ndarray, *, text_bytes: int = 0, weights: np.ndarray | None = None) -> None:
        """Adds a document of at least one token.

        Raises:
          ValueError: an id outside the vocabulary.
        """
        array = np.asarray(ids, np.int64)
        assert array.size, "an empty document has no place in a shard"
        assert (weights is None) == (self._weights is None), "weights go with weighted shards and only with them"
        if array.min() < 0 or array.max() >= self._vocabulary_size:
            raise ValueError(
                f"the tokenizer gave ids from {array.min()} to {array.max()} and says its vocabulary has "
                f"{self._vocabulary_size}: the tokenizer is broken; load or train another"
            )
        self._tokens.write(array.astype(self._dtype))
        if self._weights is not None:
            assert weights is not None and weights.shape == array.shape
            self._weights.write(weights.astype(WEIGHT_DTYPE))
        self._bounds.append(self._bounds[-1] + array.size)
        self._text_bytes += text_bytes

    def finish(self) -> Shard | None:
        """Puts the files in their place; nothing is left of a shard without documents."""
        if len(self._bounds) == 1:
            self.discard()
            return None
        bounds = _HashedFile(self._folder / f"{self._name}.idx")
        bounds.write(np.asarray(self._bounds, BOUND_DTYPE))
        opened = [self._tokens, bounds, *([self._weights] if self._weights is not None else [])]
        return Shard(
            name=self._name,
            split=self._split,
            tokens=self._bounds[-1],
            documents=len(self._bounds) - 1,
            text_bytes=self._text_bytes,
            files={file.path.name: file.finish() for file in opened},
        )

    def discard(self) -> None:
        """Removes what was written."""
        self._tokens.discard()
        if self._weights is not None:
            self._weights.discard()
