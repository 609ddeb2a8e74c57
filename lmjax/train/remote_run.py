"""Reads a run in object storage: the parts that a command needs come to a local folder, verified."""

import os
import pathlib
import re
from collections.abc import Callable
from typing import Literal

from lmjax.atomic_files import write_file
from lmjax.parallel.folder_lock import folder_lock
from lmjax.remote.address import address_of, copy_folder
from lmjax.remote.bucket import Bucket
from lmjax.remote.lease import LEASE
from lmjax.train.checkpoint.errors import CheckpointError, DamagedError
from lmjax.train.checkpoint.folder import delete_steps, steps_there
from lmjax.train.checkpoint.manifest import SAVES, visible_steps
from lmjax.train.checkpoint.remote import (
    CHECKPOINTS,
    METRICS,
    SAMPLES,
    best_of,
    fetch_loose,
    fetch_newest,
    fetch_save,
    read_manifest,
)
from lmjax.train.published import PUBLISHED

CONFIG = "config.json"
_RUN = re.compile(rf"(.*/)?{SAVES}/\d+\.json|(.*/)?{CONFIG}")

Wanted = int | Literal["best", "none"] | None
"""The checkpoint that is needed: that of a step, the best one, none, or the newest (None)."""


def local_run(path: pathlib.Path, step: Wanted = None, *, say: Callable[[str], object] = print) -> pathlib.Path:
    """Returns a folder with a run: the path itself, or a local copy of a run in object storage.

    Args:
      path: a run folder, or an address such as ``s3://BUCKET/RUN``.
      step: the checkpoint that is needed.
      say: called with each line of text for a person.

    Raises:
      ValueError: there is no run at the address, or no such checkpoint.
      CheckpointError: the checkpoint there is damaged.
      RemoteError, OSError: the storage or the local folder cannot be used.
    """
    address = address_of(path)
    if address is None:
        return path
    folder = copy_folder(address, "read")
    with folder_lock(folder, "is being read from object storage", wait=True):
        _fetch(Bucket(address), folder, step, say)
    return folder


def local_runs(path: pathlib.Path) -> pathlib.Path:
    """Returns a folder with the metrics and configurations of all runs below an address, or the path itself.

    Raises:
      ValueError: there is no run below the address.
      RemoteError, OSError: the storage or the local folder cannot be used.
    """
    address = address_of(path)
    if address is None:
        return path
    found = {match[1] or match[2] or "" for match in map(_RUN.fullmatch, Bucket(address).sizes()) if match}
    # A run of a model that was imported holds the configuration that was published with it.
    found = {inner for inner in found if not inner.endswith(f"{PUBLISHED}/")}
    if not found:
        raise ValueError(f"{address}: there is no run there: check the address")
    top = copy_folder(address, "listed")
    for inner in sorted(found):
        folder = top / inner
        with folder_lock(folder, "is being read from object storage", wait=True):
            _fetch(Bucket(f"{address}/{inner}".rstrip("/")), folder, "none", print)
    return top


def _fetch(bucket: Bucket, folder: pathlib.Path, step: Wanted, say: Callable[[str], object]) -> None:
    visible = visible_steps(bucket.sizes(SAVES))
    for name in (METRICS, SAMPLES, CONFIG, LEASE):  # What an earlier command has left may be gone there.
        (folder / name).unlink(missing_ok=True)
    fetch_loose(bucket, folder, (METRICS, SAMPLES, CONFIG, LEASE))
    if (folder / METRICS).exists():
        changed = bucket.modified(METRICS)
        os.utime(folder / METRICS, (changed, changed))
    if not visible and not (folder / CONFIG).exists():
        raise ValueError(f"{bucket.address}: there is no run there: check the address")
    delete_steps(folder / CHECKPOINTS, [old for old in steps_there(folder / CHECKPOINTS) if old not in visible])
    if not visible:
        return
    if step is None:
        fetch_newest(bucket, folder, say=say)
        return
    try:
        newest = read_manifest(bucket, visible[-1])
        for name, text in newest.texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_file(folder / name, text)
        number = best_of(newest) if step == "best" else step
        if number == "none":
            return
        if number not in visible:
            raise ValueError(f"no checkpoint of step {number} in {bucket.address}: there are {visible}")
        fetch_save(bucket, int(number), folder, say=say)
    except DamagedError as damage:
        raise CheckpointError(f"the checkpoint of step {step} in {bucket.address} is damaged: {damage}") from None


def step_before(path: pathlib.Path, step: int) -> Wanted:
    """Returns the last checkpoint in object storage before a step; ``"none"`` if there is none, or for a folder.

    Raises:
      RemoteError: the storage cannot be used.
    """
    address = address_of(path)
    visible = [] if address is None else visible_steps(Bucket(address).sizes(SAVES))
    return max((one for one in visible if one < step), default="none")
