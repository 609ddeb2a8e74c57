"""Prepared data in object storage: a local folder with manifest and tokenizer, and a cache of the shards' files.

The folder stands for the address wherever a prepared folder is expected. Its name contains a digest of the manifest, so
that its content never changes. Files of shards are fetched when a row needs them, see :mod:`lmjax.remote.file_cache`.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from io import BufferedReader

from lmjax.atomic_files import write_file, write_json
from lmjax.data.manifest import MANIFEST, Manifest, Shard, read_json
from lmjax.data.mixing import TOKENIZER
from lmjax.data.verification import SAMPLE_BYTES, Verify
from lmjax.naming import naming
from lmjax.remote.address import cache_folder, copy_folder, stored_address
from lmjax.remote.bucket import Bucket
from lmjax.remote.file_cache import FileCache, too_small
from lmjax.tokenizers.folder import METADATA

ORIGIN = "origin.json"


def local_folder(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns a prepared folder of a file system; for an address, a local one with its manifest and tokenizer.

    A process reads the manifest of an address once.

    Args:
      path: a prepared folder, or the address of one.

    Raises:
      ValueError: there is no manifest or no tokenizer at the address, or a package for it is missing.
      RemoteError: the storage cannot be reached.
      OSError: the local folder cannot be written.
    """
    address = stored_address(path)
    return pathlib.Path(path) if address is None else _fetched(address, copy_folder(address, "read", kind="data"))


@functools.lru_cache(maxsize=1024)
def _fetched(address: str, parent: pathlib.Path) -> pathlib.Path:
    bucket = Bucket(address)
    manifest = _read(bucket, MANIFEST)
    folder = parent / hashlib.sha256(manifest).hexdigest()[:16]
    if (folder / MANIFEST).exists():
        return folder
    (folder / TOKENIZER).mkdir(parents=True, exist_ok=True)
    metadata = _read(bucket, f"{TOKENIZER}/{METADATA}")
    for name in _names(metadata):
        write_file(folder / TOKENIZER / name, _read(bucket, f"{TOKENIZER}/{name}"))
    write_file(folder / TOKENIZER / METADATA, metadata)
    write_json(folder / ORIGIN, {"address": address})
    # Last: it says that the folder is whole.
    write_file(folder / MANIFEST, manifest)
    try:
        with naming(address):
            Manifest.load(folder)
    except ValueError:
        (folder / MANIFEST).unlink()
        raise
    return folder


def _names(metadata: bytes) -> list[str]:
    """Returns the names of a tokenizer's files; whoever loads the tokenizer checks the metadata, and all sums."""
    try:
        names = list(json.loads(metadata)["files"])
    except (ValueError, RecursionError, KeyError, TypeError):
        return []
    return [name for name in names if isinstance(name, str) and name == pathlib.PurePath(name).name != ".."]


def _read(bucket: Bucket, name: str) -> bytes:
    content = bucket.read(name)
    if content is None:
        raise ValueError(
            f"{bucket.address}/{name}: not found: correct the address, or make the data first, with lmjax prepare "
            f"(or copy all of a prepared folder there, {MANIFEST} last)"
        )
    return content


def origin_of(folder: pathlib.Path) -> str | None:
    """Returns the address that a folder of :func:`local_folder` stands for; None for another prepared folder."""
    try:
        content = read_json(folder / ORIGIN)
    except (OSError, ValueError):
        return None
    return stored_address(content.get("address")) if isinstance(content, dict) else None


def place_of(folder: pathlib.Path) -> str:
    """Returns the name of a prepared folder for people: its address, if it stands for one, or its path."""
    return origin_of(folder) or str(folder)


class StoredFiles:
    """The files of shards in object storage. Its methods may be called from several threads."""

    def __init__(self, address: str, shards: Sequence[Shard], *, verify: Verify, cache_gigabytes: float):
        """Opens them; nothing is fetched yet.

        Args:
          address: the address of the prepared data.
          shards: the entries of the manifest.
          verify: which cached files are compared with their sums when they are first read: up to 1 GiB
            (``"sample"``), all or none. What is fetched is always compared.
          cache_gigabytes: the limit of the cache, in 10^9 bytes.

        Raises:
          ValueError: a file is larger than the cache may be.
          OSError: the folder of the cache cannot be made.
        """
        self.address = address
        self._records = {name: record for shard in shards for name, record in shard.files.items()}
        most_bytes = int(cache_gigabytes * 1e9)
        largest = max(self._records, key=lambda name: self._records[name].size)
        if self._records[largest].size > most_bytes:
            raise ValueError(too_small(f"{address}/{largest}", self._records[largest].size, most_bytes))
        if (total := sum(record.size for record in self._records.values())) > most_bytes:
            _warn(
                f"data.cache_gigabytes={cache_gigabytes:g}: the shards of {address} have {total / 1e9:.3g} GB; rows "
                f"come from all of them, so that shards will be fetched again and again"
            )
        self._bucket = Bucket(address)
        check_bytes = {"sample": float(SAMPLE_BYTES), "always": math.inf, "never": 0.0}[verify]
        self._cache = FileCache(cache_folder() / "data" / "shards", most_bytes=most_bytes, check_bytes=check_bytes)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[BufferedReader]:
        """Opens a file, which is fetched if it is not in the cache; it is not deleted before the block ends.

        Args:
          name: its name in the manifest.

        Raises:
          FetchError: it is missing there, or differs from its sum; or the disk is full.
          RemoteError: the storage cannot be reached.
        """
        record = self._records[name]
        with self._cache.opened(self._bucket, name, sha256=record.sha256, size=record.size) as file:
            yield file


@functools.lru_cache(maxsize=1024)
def _warn(text: str) -> None:
    """Prints a warning, the same one once in a process."""
    print(f"warning: {text}", file=sys.stderr, flush=True)
