"""Whether the files of shards are those the manifest names: sizes always, checksums as asked.

A disk may change a bit of a file without changing its size or its time, so a file that was correct once may be
damaged later. Reading all of a large corpus at each start takes too long. ``"sample"`` therefore reads files that are
new or changed, and others picked at random, up to a gibibyte (a second or so): a damaged byte of a split of S bytes
is found at a start with probability ``min(1, 2^30 / S)`` or a little more, hence always where the split is smaller,
and within some ``S / 2^30`` starts where not.
"""

import concurrent.futures
import hashlib
import os
import pathlib
import random
from collections.abc import Iterable, Sequence
from typing import Literal

from lmjax.atomic_files import write_json
from lmjax.data.manifest import Shard, read_json

VERIFIED = "verified.json"
SAMPLE_BYTES = 1 << 30
Verify = Literal["sample", "always", "never"]


def verify_files(folder: pathlib.Path, shards: Sequence[Shard], verify: Verify) -> None:
    """Compares the files of shards with the manifest.

    Args:
      folder: the folder of the shards.
      shards: the entries of the manifest.
      verify: which checksums are compared; ``"never"`` compares the sizes only.

    Raises:
      ValueError: a file is missing, is outside of the folder, or has another size or another checksum.
    """
    _check_sizes(folder, shards)
    if verify == "never":
        return
    wanted = {name: record for shard in shards for name, record in shard.files.items()}
    states = {name: [record.sha256, (folder / name).stat().st_mtime_ns] for name, record in wanted.items()}
    known = _read_known(folder) if verify == "sample" else {}
    unknown = [name for name, state in states.items() if known.get(name) != state]
    others = sorted(wanted.keys() - set(unknown))
    random.shuffle(others)
    budget, sample = SAMPLE_BYTES, []
    for name in others:
        if budget > 0:
            sample.append(name)
            budget -= wanted[name].size
    _check_sums(folder, [*unknown, *sample], {name: record.sha256 for name, record in wanted.items()})
    if unknown and verify == "sample":
        try:
            write_json(folder / VERIFIED, {**known, **states})
        except OSError:
            return  # A read-only folder is verified each time it is opened.


def _check_sizes(folder: pathlib.Path, shards: Iterable[Shard]) -> None:
    there = os.path.realpath(folder)
    for shard in shards:
        for name, record in shard.files.items():
            path = folder / name
            if os.path.dirname(os.path.realpath(path)) != there:
                raise ValueError(f"{path}: a link to a file outside of the folder: put the file itself there")
            size = path.stat().st_size if path.is_file() else None
            if size != record.size:
                found = "is missing" if size is None else f"has {size} bytes and should have {record.size}"
                raise ValueError(f"{path}: {found}: copy the file again, or prepare the data again")


def _read_known(folder: pathlib.Path) -> dict:
    try:
        known = read_json(folder / VERIFIED)
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _check_sums(folder: pathlib.Path, names: Sequence[str], wanted: dict[str, str]) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for name, digest in zip(names, pool.map(lambda name: sha256_of(folder / name), names), strict=True):
            if digest != wanted[name]:
                raise ValueError(
                    f"{folder / name}: damaged (its sha256 is not the manifest's): copy the file again, or "
                    f"prepare the data again"
                )


def sha256_of(path: pathlib.Path) -> str:
    """Returns the sha256 of a file in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
