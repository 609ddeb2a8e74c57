"""Copies a prepared folder to object storage."""

import concurrent.futures
import pathlib
from collections.abc import Callable

from lmjax.data.manifest import MANIFEST, Manifest
from lmjax.data.mixing import TOKENIZER
from lmjax.data.verification import verify_files
from lmjax.remote.bucket import Bucket

THREADS = 8


def check_publishable(folder: pathlib.Path, address: str) -> None:
    """Refuses an address that holds other prepared data than a folder, or whose bucket does not exist.

    There may be no data in either place.

    Raises:
      ValueError: it does.
      RemoteError: the storage cannot be reached.
    """
    bucket = Bucket(address)
    bucket.confirm()
    there = bucket.read(MANIFEST)
    local = folder / MANIFEST
    if there is not None and not (local.exists() and local.read_bytes() == there):
        raise ValueError(
            f"{address} holds prepared data, which {folder} is not a copy of: choose another address, or delete "
            f"the data there"
        )


def publish(folder: pathlib.Path, address: str, *, progress: Callable[[int, int], object] | None = None) -> None:
    """Copies a prepared folder to an address, the manifest last, so that nobody reads it before it is whole.

    Nothing is copied if the manifest is there already. What was interrupted begins anew.

    Args:
      folder: a folder that :func:`lmjax.data.prepare.prepare.prepare` has made.
      address: the address.
      progress: called with the number of bytes that were copied, and with that of all bytes.

    Raises:
      ValueError: the address holds other data, or a file of the folder is missing or damaged.
      RemoteError: the storage cannot be written.
    """
    check_publishable(folder, address)
    bucket = Bucket(address)
    if bucket.read(MANIFEST) is not None:
        return
    shards = Manifest.load(folder).shards
    verify_files(folder, shards, "always")
    sizes = {name: record.size for shard in shards for name, record in shard.files.items()}
    names = [*(f"{TOKENIZER}/{path.name}" for path in sorted((folder / TOKENIZER).iterdir())), *sizes]
    total, copied = sum(sizes.values()), 0
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        copies = {pool.submit(bucket.upload, folder / name, name): name for name in names}
        try:
            for copy in concurrent.futures.as_completed(copies):
                copy.result()
                copied += sizes.get(copies[copy], 0)
                if progress is not None:
                    progress(copied, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    bucket.upload(folder / MANIFEST, MANIFEST)
