"""Reads saves from object storage into a local folder, and verifies them."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from lmjax.atomic_files import write_file
from lmjax.remote.bucket import Bucket, RemoteError
from lmjax.train.checkpoint.checksums import first_mismatch
from lmjax.train.checkpoint.errors import CheckpointError, DamagedError
from lmjax.train.checkpoint.folder import FETCHED
from lmjax.train.checkpoint.manifest import Manifest, manifest_name, visible_steps

CHECKPOINTS = "checkpoints"
BEST_TEXT = f"{CHECKPOINTS}/best.json"
AT_ONCE = 8
"""How many objects are copied at the same time."""
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"

Say = Callable[[str], object]


def read_manifest(bucket: Bucket, step: int) -> Manifest:
    """Returns the contents of a visible save.

    Raises:
      DamagedError: its list of files is missing or damaged.
      RemoteError: it cannot be read.
    """
    content = bucket.read(manifest_name(step))
    if content is None:
        raise DamagedError(f"{manifest_name(step)} is missing")
    try:
        return Manifest.from_bytes(content, step=step)
    except ValueError as error:
        raise DamagedError(f"{manifest_name(step)}: {error}") from None


def fetch_save(bucket: Bucket, step: int, folder: pathlib.Path, *, say: Say) -> Manifest:
    """Copies the files of a save to a run folder, except those that are there already, and verifies each by its sum.

    The step is there with all of its files or not at all. The texts of the manifest are not written.

    Args:
      bucket: the run in object storage.
      step: the step.
      folder: the run folder.
      say: called with a line of text before files are copied.

    Raises:
      DamagedError: a file is missing there or differs from its checksum.
      RemoteError: the storage cannot be read.
      OSError: the run folder cannot be written.
    """
    manifest = read_manifest(bucket, step)
    own = {name: digest for name, digest in manifest.files.items() if name.startswith(f"{CHECKPOINTS}/")}
    shared = {name: digest for name, digest in manifest.files.items() if name not in own}
    missing = [name for name, digest in shared.items() if digest_of(folder / name) != digest]
    _fetch(bucket, {name: folder / name for name in missing}, shared)
    target = folder / CHECKPOINTS / str(step)
    if target.is_dir() and first_mismatch(folder, own) is None:
        return manifest
    say(f"{bucket.address}: reading the checkpoint of step {step} to {folder}")
    arriving = target.with_name(f"{step}{FETCHED}")
    shutil.rmtree(arriving, ignore_errors=True)
    places = {name: arriving / name.removeprefix(f"{CHECKPOINTS}/{step}/") for name in own}
    try:
        _fetch(bucket, places, own)
        if target.exists():
            shutil.rmtree(target)
        os.rename(arriving, target)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)
    return manifest


def _fetch(bucket: Bucket, places: dict[str, pathlib.Path], sums: dict[str, str]) -> None:
    def fetch(name: str) -> None:
        try:
            bucket.download(name, places[name])
        except RemoteError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise DamagedError(f"{name} is missing") from None
            raise
        if digest_of(places[name]) != sums[name]:
            raise DamagedError(f"{name} differs from its checksum")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(fetch, places))


def fetch_newest(
    bucket: Bucket, folder: pathlib.Path, *, say: Say, damaged: Callable[[int], object] | None = None
) -> Manifest | None:
    """Copies the newest save that is whole, and the best one, to a run folder with the texts that describe it.

    Args:
      bucket: the run in object storage.
      folder: the run folder.
      say: called with each line of text for a person.
      damaged: called with each step that was found damaged.

    Returns:
      The contents of the save; None if no save is visible.

    Raises:
      CheckpointError: there are saves, but none is whole.
      RemoteError, OSError: see :func:`fetch_save`.
    """
    visible = visible_steps(bucket.sizes("saves"))
    for step in reversed(visible):
        try:
            manifest = fetch_save(bucket, step, folder, say=say)
        except DamagedError as error:
            say(f"{bucket.address}: the checkpoint of step {step} is damaged ({error}); the one before it is taken")
            if damaged is not None:
                damaged(step)
            continue
        best = best_of(manifest)
        if best in visible and best != step:
            with contextlib.suppress(DamagedError):
                fetch_save(bucket, best, folder, say=say)
        for name, text in manifest.texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_file(folder / name, text)
        return manifest
    if visible:
        raise CheckpointError(
            f"{bucket.address}: none of its checkpoints {visible} is intact: copy an intact one there, or choose "
            f"another --folder"
        )
    return None


def fetch_loose(bucket: Bucket, folder: pathlib.Path, names: Iterable[str] = (METRICS, SAMPLES)) -> None:
    """Copies files that belong to no save, such as the metrics, to a run folder.

    Raises:
      RemoteError, OSError: they cannot be read or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        content = bucket.read(name)
        if content is not None:
            write_file(folder / name, content)


def best_of(manifest: Manifest) -> int | None:
    """Returns the step that a save names as the best; None if it names none."""
    try:
        step = json.loads(manifest.texts[BEST_TEXT])["step"]
    except (KeyError, ValueError, TypeError):
        return None
    return step if isinstance(step, int) else None


def digest_of(path: pathlib.Path) -> str | None:
    """Returns the SHA-256 sum of a file; None if it does not exist."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
