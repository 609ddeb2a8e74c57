"""Reading of shards as one long stream of tokens, from any place, without keeping it in memory.

Tokens are read with ``pread``, not mapped. The memory of the process then does not grow with the part of the corpus
that it has read, and a file that becomes shorter while a program runs raises an error that names it, not a bus error.
Document bounds, which are searched, are memory-mapped; those of shards in object storage, which the cache may delete,
are read whole.
"""

import bisect
import contextlib
import functools
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from lmjax.data.config import CACHE_GIGABYTES
from lmjax.data.manifest import BOUND_DTYPE, WEIGHT_DTYPE, Manifest, Shard
from lmjax.data.stored import StoredFiles, local_folder, origin_of, place_of
from lmjax.data.verification import Verify, verify_files

OPEN_FILES = 128


class TokenShards:
    """One split of a prepared folder as a stream of ``num_tokens`` tokens in ``num_documents`` documents."""

    def __init__(
        self, folder: pathlib.Path, manifest: Manifest, shards: Sequence[Shard], stored: StoredFiles | None = None
    ):
        """See :func:`open_shards`, which verifies what it opens."""
        self.folder = folder
        self._stored = stored
        self.split = shards[0].split
        self.manifest = manifest
        self.shards = tuple(shards)
        self.weighted = manifest.weighted
        self.num_documents = sum(shard.documents for shard in shards)
        self.text_bytes = sum(shard.text_bytes for shard in shards)
        self._dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._ends = list(itertools.accumulate((shard.tokens for shard in shards), initial=0))
        # A corpus may have more shards than a process may have open files.
        self._open = functools.lru_cache(maxsize=OPEN_FILES)(self._open_file)
        self.document_bounds = functools.lru_cache(maxsize=OPEN_FILES)(self._map_bounds)

    @property
    def members(self) -> tuple[str, ...]:
        """The fields of an example, which are consecutive documents; empty if each document is an example."""
        return tuple(self.manifest.settings.get("members", ()))

    @property
    def num_tokens(self) -> int:
        """The length of the stream."""
        return self._ends[-1]

    def _open_file(self, name: str):
        # The file is closed when its last user releases it; a reader in another thread may still use an evicted file.
        return open(self.folder / name, "rb", buffering=0)

    def _opened(self, name: str) -> contextlib.AbstractContextManager:
        """Opens a file for ``pread``."""
        return contextlib.nullcontext(self._open(name)) if self._stored is None else self._stored.opened(name)

    def _place(self, name: str) -> str:
        """Returns the path or address of a file, for messages."""
        return str(self.folder / name) if self._stored is None else f"{self._stored.address}/{name}"

    def _map_bounds(self, number: int) -> np.ndarray:
        """Returns the document bounds of shard ``number``, int64 [documents + 1], counted from its own first token."""
        shard = self.shards[number]
        name = f"{shard.name}.idx"
        path = self._place(name)
        if self._stored is not None:
            with self._stored.opened(name) as file:
                bounds = np.fromfile(file, BOUND_DTYPE)
        else:
            try:
                bounds = np.asarray(np.memmap(path, BOUND_DTYPE, mode="r"))
            except ValueError:
                raise ValueError(f"{path}: cut short while it was read: prepare the data again") from None
        ends_fit = len(bounds) == shard.documents + 1 and bounds[0] == 0 and bounds[-1] == shard.tokens
        if not (ends_fit and np.all(bounds[1:] > bounds[:-1])):
            raise ValueError(f"{path}: damaged (not the bounds of {shard.documents} documents): prepare the data again")
        return bounds

    @property
    def has_ids(self) -> bool:
        """Whether the ids of documents were kept."""
        return "id_field" in self.manifest.settings

    def document_ids(self, start: int, length: int) -> list[str]:
        """Returns the ids of the documents of which a token is in a stretch of the stream.

        Raises:
          ValueError: a file of ids is damaged.
        """
        found: list[str] = []
        for number, within, count, _ in self._stretches(start, length):
            name = f"{self.shards[number].name}.ids"
            first, last = np.searchsorted(self.document_bounds(number), [within, within + count - 1], side="right") - 1
            try:
                with open(self.folder / name, "rb") if self._stored is None else self._stored.opened(name) as file:
                    found += [json.loads(line) for line in itertools.islice(file, int(first), int(last) + 1)]
            except (OSError, ValueError) as error:
                raise ValueError(f"{self._place(name)}: damaged ({error}): prepare the data again") from None
        return found

    def shard_start(self, number: int) -> int:
        """Returns the place in the stream of the first token of shard ``number``."""
        return self._ends[number]

    def _stretches(self, start: int, length: int) -> Iterator[tuple[int, int, int, int]]:
        """Yields (shard number, first token within it, number of tokens, offset from ``start``), shard by shard."""
        assert start >= 0 and start + length <= self.num_tokens, (start, length, self.num_tokens)
        number = bisect.bisect_right(self._ends, start) - 1
        offset = 0
        while offset < length:
            within = start + offset - self._ends[number]
            count = min(length - offset, self.shards[number].tokens - within)
            yield number, within, count, offset
            offset += count
            number += 1

    def read_tokens(self, start: int, out: np.ndarray) -> None:
        """Fills ``out`` with the tokens from ``start`` on.

        Raises:
          ValueError: an id is beyond the vocabulary.
        """
        self._read("bin", self._dtype, start, out)
        if len(out) and out.max() >= self.manifest.vocabulary_size:
            raise self._damaged("bin", start, f"holds id {out.max()}, beyond the vocabulary of "
                                f"{self.manifest.vocabulary_size}")  # fmt: skip

    def read_weights(self, start: int, out: np.ndarray) -> None:
        """Fills ``out`` with the loss weights of the tokens from ``start`` on.

        Raises:
          ValueError: a weight is not valid.
        """
        self._read("wts", WEIGHT_DTYPE, start, out)
        if len(out) and not (np.isfinite(out).all() and out.min() >= 0):
            raise self._damaged("wts", start, "holds what is no loss weight")

    def _damaged(self, suffix: str, start: int, what: str) -> ValueError:
        path = self._place(f"{self.shards[bisect.bisect_right(self._ends, start) - 1].name}.{suffix}")
        return ValueError(f"{path} (or the next): damaged: {what}: copy the file again, or prepare the data again")

    def _read(self, suffix: str, dtype: np.dtype, start: int, out: np.ndarray) -> None:
        for number, within, count, offset in self._stretches(start, len(out)):
            name = f"{self.shards[number].name}.{suffix}"
            with self._opened(name) as file:
                content = os.pread(file.fileno(), count * dtype.itemsize, within * dtype.itemsize)
            if len(content) != count * dtype.itemsize:
                raise ValueError(f"{self._place(name)}: cut short while it was read: prepare the data again")
            out[offset : offset + count] = np.frombuffer(content, dtype)

    def read_segments(self, start: int, out: np.ndarray, *, first: int = 1) -> int:
        """Fills ``out`` with the number of the document of each token, ``first`` for the token at ``start``.

        Returns:
          The number for the document after the last one.
        """
        changes = np.zeros(len(out), np.int32)
        for number, within, count, offset in self._stretches(start, len(out)):
            bounds = self.document_bounds(number)
            low, high = np.searchsorted(bounds, [within, within + count])
            changes[bounds[low:high] - within + offset] = 1
        changes[0] = first
        np.cumsum(changes, out=out)
        return int(out[-1]) + 1


def open_shards(
    folder: pathlib.Path | str,
    split: str,
    *,
    tokenizer_fingerprint: str | None = None,
    verify: Verify = "sample",
    cache_gigabytes: float = CACHE_GIGABYTES,
) -> TokenShards:
    """Opens one split of a prepared folder.

    Args:
      folder: a folder made by :func:`lmjax.data.prepare.prepare.prepare`, or the address of a copy.
      split: ``"train"`` or ``"valid"``.
      tokenizer_fingerprint: refuse shards that another tokenizer has made.
      verify: see :mod:`lmjax.data.verification`; at an address, files are compared when they are fetched.
      cache_gigabytes: at an address, the limit of the local cache.

    Raises:
      ValueError: a missing, truncated or damaged file, a tokenizer that does not match, an empty split.
      RemoteError: the storage cannot be reached.
    """
    folder = local_folder(folder)
    manifest = Manifest.load(folder)
    made_by = manifest.tokenizer_fingerprint
    if tokenizer_fingerprint is not None and made_by != tokenizer_fingerprint:
        raise ValueError(
            f"{place_of(folder)}: the shards were made with another tokenizer (fingerprint {made_by[:12]}; the one in "
            f"use has {tokenizer_fingerprint[:12]}): use {folder / 'tokenizer'}, or prepare the data again"
        )
    shards = [shard for shard in manifest.shards if shard.split == split]
    if not shards:
        there = sorted({shard.split for shard in manifest.shards})
        raise ValueError(
            f"{place_of(folder)}: no {split!r} data, only {', '.join(there)}: prepare it again with "
            f"data.valid_fraction above 0"
        )
    address = origin_of(folder)
    if address is not None:
        stored = StoredFiles(address, shards, verify=verify, cache_gigabytes=cache_gigabytes)
        return TokenShards(folder, manifest, shards, stored)
    verify_files(folder, shards, verify)
    return TokenShards(folder, manifest, shards)
