"""Reading shards as one long stream of tokens, at any place, without holding it.

Tokens are read with ``pread`` rather than mapped: the process's memory then stays flat however much
of a corpus it has visited, and a file cut short under a running program is an error with a name
and not a bus error. Document bounds, which are searched, are memory-mapped.
"""

import bisect
import concurrent.futures
import functools
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from lmjax.data.shards import BOUND_DTYPE, WEIGHT_DTYPE, Manifest, Shard, write_json

VERIFIED = "verified.json"
OPEN_FILES = 128


class TokenShards:
    """One split of a prepared folder as a stream of ``num_tokens`` tokens in ``num_documents`` documents."""

    def __init__(self, folder: pathlib.Path, manifest: Manifest, shards: Sequence[Shard]):
        """See :func:`open_shards`, which verifies what it opens."""
        self.folder = folder
        self.split = shards[0].split
        self.manifest = manifest
        self.shards = tuple(shards)
        self.weighted = manifest.weighted
        self.num_documents = sum(shard.documents for shard in shards)
        self.text_bytes = sum(shard.text_bytes for shard in shards)
        self._dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._ends = list(itertools.accumulate((shard.tokens for shard in shards), initial=0))
        # A corpus may have more shards than a process may have files.
        self._open = functools.lru_cache(maxsize=OPEN_FILES)(self._open_file)
        self.document_bounds = functools.lru_cache(maxsize=OPEN_FILES)(self._map_bounds)

    @property
    def members(self) -> tuple[str, ...]:
        """The fields of an example that are consecutive documents; empty where a document is one by itself."""
        return tuple(self.manifest.settings.get("members", ()))

    @property
    def num_tokens(self) -> int:
        """Length of the stream."""
        return self._ends[-1]

    def _open_file(self, name: str):
        # Closed when the last user lets go, which an evicted file's reader in another thread may be.
        return open(self.folder / name, "rb", buffering=0)

    def _map_bounds(self, number: int) -> np.ndarray:
        """int64 [documents + 1], the document bounds of shard ``number``, from its own first token."""
        path = self.folder / f"{self.shards[number].name}.idx"
        return np.asarray(np.memmap(path, BOUND_DTYPE, mode="r"))

    def shard_start(self, number: int) -> int:
        """Place in the stream of the first token of shard ``number``."""
        return self._ends[number]

    def _stretches(self, start: int, length: int) -> Iterator[tuple[int, int, int, int]]:
        """(shard number, first token within it, number of tokens, offset from ``start``), shard by shard."""
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
        """Fills ``out`` with the tokens from ``start`` on."""
        self._read("bin", self._dtype, start, out)

    def read_weights(self, start: int, out: np.ndarray) -> None:
        """Fills ``out`` with the loss weights of the tokens from ``start`` on."""
        self._read("wts", WEIGHT_DTYPE, start, out)

    def _read(self, suffix: str, dtype: np.dtype, start: int, out: np.ndarray) -> None:
        for number, within, count, offset in self._stretches(start, len(out)):
            name = f"{self.shards[number].name}.{suffix}"
            file = self._open(name)
            content = os.pread(file.fileno(), count * dtype.itemsize, within * dtype.itemsize)
            if len(content) != count * dtype.itemsize:
                raise ValueError(f"{self.folder / name}: cut short while it was read: prepare the data again")
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
    verify: Literal["size", "checksum"] = "checksum",
) -> TokenShards:
    """Opens one split of a prepared folder.

    Sizes are compared with the manifest at every opening. Checksums are too, but a file that passed
    is not read again until its size or modification time changes (``verified.json`` remembers).

    Args:
      folder: a folder made by :func:`lmjax.data.prepare.prepare`.
      split: ``"train"`` or ``"valid"``.
      tokenizer_fingerprint: refuse shards another tokenizer made.
      verify: ``"size"`` skips the checksums, for corpora that take too long to read.

    Raises:
      ValueError: a missing, truncated or damaged file, a tokenizer that does not match, an empty split.
    """
    folder = pathlib.Path(folder)
    manifest = Manifest.load(folder)
    made_by = manifest.tokenizer_fingerprint
    if tokenizer_fingerprint is not None and made_by != tokenizer_fingerprint:
        raise ValueError(
            f"{folder}: the shards were made with another tokenizer (fingerprint {made_by[:12]}; the one in "
            f"use has {tokenizer_fingerprint[:12]}): use {folder / 'tokenizer'}, or prepare the data again"
        )
    shards = [shard for shard in manifest.shards if shard.split == split]
    if not shards:
        there = sorted({shard.split for shard in manifest.shards})
        raise ValueError(
            f"{folder}: no {split!r} data, only {', '.join(there)}: prepare it again with data.valid_fraction above 0"
        )
    _verify_sizes(folder, shards)
    if verify == "checksum":
        _verify_checksums(folder, shards)
    elif verify != "size":
        raise ValueError(f"open_shards: verify={verify!r}: use 'size' or 'checksum'")
    return TokenShards(folder, manifest, shards)


def _verify_sizes(folder: pathlib.Path, shards: Sequence[Shard]) -> None:
    for shard in shards:
        for name, record in shard.files.items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else None
            if size != record.size:
                found = "is missing" if size is None else f"has {size} bytes and should have {record.size}"
                raise ValueError(f"{path}: {found}: copy the file again, or prepare the data again")


def _verify_checksums(folder: pathlib.Path, shards: Sequence[Shard]) -> None:
    try:
        known = json.loads((folder / VERIFIED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    wanted = {name: record.sha256 for shard in shards for name, record in shard.files.items()}
    states = {name: [sha256, (folder / name).stat().st_mtime_ns] for name, sha256 in wanted.items()}
    unknown = [name for name, state in states.items() if known.get(name) != state]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for name, digest in zip(unknown, pool.map(lambda name: _sha256(folder / name), unknown), strict=True):
            if digest != wanted[name]:
                raise ValueError(
                    f"{folder / name}: damaged (its sha256 is not the manifest's): copy the file again, or "
                    f"prepare the data again"
                )
    if unknown:
        try:
            write_json(folder / VERIFIED, {**known, **states})
        except OSError:
            return  # A folder we cannot write to is verified at every opening.


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
