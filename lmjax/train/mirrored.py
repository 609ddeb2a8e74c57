"""A run in object storage: it works in a local folder, which is a copy of the storage at its start and at each save.

Object storage decides. The newest save that is visible there, verified, is what a start goes on from. A local save that
is newer is used only if it follows from that one, as after a run that ended before its last save was copied.
"""

import contextlib
import json
import pathlib
import secrets
from collections.abc import Callable, Iterator

import jax

from lmjax.atomic_files import write_file
from lmjax.parallel.distributed import is_primary
from lmjax.remote.bucket import Bucket, RemoteError
from lmjax.remote.lease import leased
from lmjax.train.checkpoint import CheckpointError
from lmjax.train.checkpoint.checksums import SUMS
from lmjax.train.checkpoint.errors import DamagedError
from lmjax.train.checkpoint.folder import delete_steps, steps_there
from lmjax.train.checkpoint.load import from_primary
from lmjax.train.checkpoint.manifest import SAVES, visible_steps
from lmjax.train.checkpoint.mirror import NEWEST, Mirror, hide_damaged, note_newest
from lmjax.train.checkpoint.remote import digest_of, fetch_loose, fetch_newest, read_manifest
from lmjax.train.config import RunConfig
from lmjax.train.record import RECORD
from lmjax.train.run_folder import CHECKPOINTS, CONFIG, DOING, SHARED

Say = Callable[[str], None]


@contextlib.contextmanager
def mirrored(config: RunConfig, say: Say) -> Iterator[Mirror | None]:
    """Makes the local copy of a run in object storage equal to it, and copies each save there until the block ends.

    The first process does so for all; the others must see its local copy.

    Args:
      config: the configuration of the run.
      say: called with each line of text for a person.

    Returns:
      The mirror; None for a run in a folder, and in the other processes.

    Raises:
      ValueError: another process trains this run, or the local folder cannot be its copy.
      CheckpointError: none of the saves there is intact; or, at the end, the last one could not be copied.
      RemoteError: the storage cannot be used.
    """
    if config.address is None:
        yield None
        return
    folder = config.run_folder
    if not is_primary():
        _check_shared(folder)
        yield None
        return
    bucket = Bucket(config.address)
    with leased(bucket, DOING, notify=say) as lease:
        local = _bring_up_to_date(bucket, folder, say)
        _check_shared(folder)
        mirror = Mirror(bucket, folder, config.checkpoint, lease=lease, say=say)
        try:
            mirror.clear_unfinished()
            for step in local:
                mirror.describe(step, {name: (folder / name).read_text() for name in (CONFIG, RECORD)})
                mirror.push(step)
            yield mirror
        except BaseException:
            # The error that ended the block says more than one of this copy.
            with contextlib.suppress(CheckpointError):
                mirror.close()
            raise
        mirror.close()


def _bring_up_to_date(bucket: Bucket, folder: pathlib.Path, say: Say) -> list[int]:
    """Fetches the newest save, and returns the local steps that follow from it and are not in object storage."""
    known, newest_known = _read_note(bucket.address, folder)
    visible = visible_steps(bucket.sizes(SAVES))
    newest = max(visible, default=None)
    here = steps_there(folder / CHECKPOINTS)
    folder.mkdir(parents=True, exist_ok=True)
    if newest is None:
        if newest_known is not None:
            raise ValueError(
                f"{bucket.address} holds no checkpoint any more, and {folder} is a copy of its step {newest_known}: "
                f"check the address, or delete {folder} to begin anew"
            )
        note_newest(folder, bucket.address, None)
        return here
    if not known and here:
        raise ValueError(
            f"{folder} holds a run that is not a copy of {bucket.address}, which holds one too: choose another "
            f"local_folder"
        )
    follows = known and newest == newest_known
    later = [step for step in here if step > newest] if follows else []
    if later:
        say(f"{folder} has steps {later}, which {bucket.address} lacks: going on from there")
        return later
    stale = [step for step in here if step > newest or step not in visible or not _same_sums(bucket, folder, step)]
    if stale:
        say(f"{folder}: deleting checkpoints that are not those of {bucket.address}: {stale}")
        delete_steps(folder / CHECKPOINTS, stale)
    manifest = fetch_newest(bucket, folder, say=say, damaged=lambda step: hide_damaged(bucket, step))
    assert manifest is not None, "a save was visible"
    if not follows:
        fetch_loose(bucket, folder)
    note_newest(folder, bucket.address, manifest.step)
    return []


def _same_sums(bucket: Bucket, folder: pathlib.Path, step: int) -> bool:
    """Returns whether a local step has the checksums of the one in object storage."""
    name = f"{CHECKPOINTS}/{step}/{SUMS}"
    try:
        return read_manifest(bucket, step).files.get(name) == digest_of(folder / name)
    except (DamagedError, RemoteError):
        return False


def _read_note(address: str, folder: pathlib.Path) -> tuple[bool, int | None]:
    """Returns whether the folder is a copy of the address, and the save there that it was last equal to.

    Raises:
      ValueError: it is a copy of another address.
    """
    try:
        note = json.loads((folder / NEWEST).read_text(encoding="utf-8"))
        of, newest = str(note["address"]), note["newest"]
    except (OSError, ValueError, KeyError, TypeError):
        return False, None
    if of != address:
        raise ValueError(f"{folder} is the local copy of {of}, not of {address}: choose another local_folder")
    return True, newest if isinstance(newest, int) else None


def _check_shared(folder: pathlib.Path) -> None:
    """Makes sure that this process sees the folder of the first one.

    Raises:
      ValueError: it does not.
    """
    if jax.process_count() == 1:
        return
    number = secrets.randbelow(2**31)
    if is_primary():
        write_file(folder / SHARED, str(number))
    told = from_primary(number)
    try:
        seen = int((folder / SHARED).read_text())
    except (OSError, ValueError):
        seen = None
    if seen != told:
        raise ValueError(
            f"this process does not see {folder} of process 0: a run of several processes in object storage needs "
            f"--local-folder on a file system that all of them share, or a mounted bucket as --folder"
        )
