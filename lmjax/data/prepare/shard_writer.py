"""Token shards on disk: plain little-endian arrays.

A shard is ``NAME.bin`` (token ids), ``NAME.idx`` (int64 document bounds: 0, end of the first
document, ..., number of tokens) and, when documents carry loss weights, ``NAME.wts`` (float16, one
a token), and when they have ids, ``NAME.ids`` (a JSON string a line). Every file is written under a
temporary name and then renamed, so a file with its final name is complete.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import IO

import numpy as np

from lmjax.atomic_files import partial_path, take_name, to_disk
from lmjax.data.manifest import BOUND_DTYPE, WEIGHT_DTYPE, FileRecord, Shard, token_dtype


class _HashedFile:
    """An array file under its temporary name; its hash is computed while it is written."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._partial = partial_path(path)
        self._file: IO[bytes] = open(self._partial, "wb")  # noqa: SIM115 (closed by finish and discard)
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, array: np.ndarray | bytes) -> None:
        content = array if isinstance(array, bytes) else array.tobytes()
        self._digest.update(content)
        self._size += len(content)
        self._file.write(content)

    def finish(self) -> FileRecord:
        to_disk(self._file)
        self._file.close()
        take_name(self._partial, self.path)
        return FileRecord(size=self._size, sha256=self._digest.hexdigest())

    def discard(self) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)


class ShardWriter:
    """Writes one shard, document by document; its memory does not grow with the number of tokens."""

    def __init__(
        self,
        folder: pathlib.Path | str,
        name: str,
        *,
        split: str,
        vocabulary_size: int,
        weighted: bool,
        with_ids: bool = False,
    ):
        """Opens the files of the shard ``name`` in ``folder``, under temporary names until :meth:`finish`."""
        self._folder = pathlib.Path(folder)
        self._name = name
        self._split = split
        self._vocabulary_size = vocabulary_size
        self._dtype = token_dtype(vocabulary_size)
        self._tokens = _HashedFile(self._folder / f"{name}.bin")
        self._weights = _HashedFile(self._folder / f"{name}.wts") if weighted else None
        self._ids = _HashedFile(self._folder / f"{name}.ids") if with_ids else None
        self._bounds = [0]
        self._num_tokens = 0
        self._text_bytes = 0

    def add(
        self,
        ids: Iterable[int] | np.ndarray,
        *,
        text_bytes: int = 0,
        weights: np.ndarray | None = None,
        document_id: str = "",
    ) -> None:
        """Adds a document of at least one token.

        Raises:
          ValueError: an id outside the vocabulary.
        """
        self.add_part(ids, weights=weights)
        self.end_document(text_bytes=text_bytes, document_id=document_id)

    def add_part(self, ids: Iterable[int] | np.ndarray, *, weights: np.ndarray | None = None) -> None:
        """Adds tokens to the current document.

        Raises:
          ValueError: an id outside the vocabulary.
        """
        array = np.asarray(ids)
        if not array.size:
            return
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
        self._num_tokens += array.size

    def end_document(self, *, text_bytes: int, document_id: str = "") -> None:
        """Ends the current document."""
        assert self._num_tokens > self._bounds[-1], "an empty document has no place in a shard"
        self._bounds.append(self._num_tokens)
        self._text_bytes += text_bytes
        if self._ids is not None:
            self._ids.write(json.dumps(document_id).encode() + b"\n")

    def finish(self) -> Shard | None:
        """Gives the files their final names; a shard without documents is removed."""
        if len(self._bounds) == 1:
            self.discard()
            return None
        bounds = _HashedFile(self._folder / f"{self._name}.idx")
        bounds.write(np.asarray(self._bounds, BOUND_DTYPE))
        opened = [self._tokens, bounds, *(file for file in (self._weights, self._ids) if file is not None)]
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
        for file in (self._weights, self._ids):
            if file is not None:
                file.discard()
