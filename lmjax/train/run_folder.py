"""A run's folder: the first start claims it, and later starts recognise it. :func:`lmjax.runs.open` reads it.

::

    config.json   record.json   tokenizer/   published/   checkpoints/   metrics.jsonl   tensorboard/   loss.png
    profile/   samples.jsonl
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Literal

from lmjax.atomic_files import is_partial
from lmjax.parallel.distributed import is_primary, wait_for_all
from lmjax.parallel.folder_lock import LOCK_FILE, folder_lock
from lmjax.parallel.mounts import locks_reach
from lmjax.remote.bucket import Folder
from lmjax.remote.lease import leased, warn
from lmjax.tokenizers import Tokenizer, load_tokenizer
from lmjax.train.changes import check_same_run
from lmjax.train.checkpoint import Checkpoints
from lmjax.train.checkpoint.mirror import NEWEST
from lmjax.train.config import RunConfig
from lmjax.train.config_file import read_config, write_config
from lmjax.train.published import PUBLISHED, hand_on_published
from lmjax.train.remote_run import local_run

CONFIG = "config.json"
DOING = "is being trained"
LEASE_FILE = ".lmjax-lease"
TOKENIZER = "tokenizer"
CHECKPOINTS = "checkpoints"
SHARED = ".shared"
"""A file by which several processes make sure that they see the same run folder."""


def check_name(folder: pathlib.Path) -> None:
    """Refuses a run folder whose name the file system or the terminal cannot handle, before anything is done.

    Raises:
      ValueError: the name is too long, or holds something that is not a character.
    """
    try:
        str(folder).encode()
        # This path is as long as the longest path in a run.
        os.lstat(folder / CHECKPOINTS / ("0" * 200))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 or holds a NUL"
        raise ValueError(f"a run folder cannot be called {str(folder)!r} ({reason}): choose another --folder") from None


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Locks the folder for this run until the block ends; the run's first process does so for all of them.

    If a lock does not reach the other machines that see the folder, the run also holds a lease there.

    Raises:
      ValueError: another process trains in this folder.
    """
    with contextlib.ExitStack() as stack:
        if is_primary():
            stack.enter_context(folder_lock(folder, DOING))
            if not locks_reach(folder):
                try:
                    stack.enter_context(leased(Folder(folder), DOING, name=LEASE_FILE, notify=warn))
                except OSError as error:
                    warn(f"warning: no lease can be held in {folder} ({error}): see that no other machine writes there")
        yield


def has_checkpoint(folder: pathlib.Path) -> bool:
    """Returns whether the folder has a checkpoint, so that a run in it would go on and not begin."""
    return bool(Checkpoints(folder / CHECKPOINTS, read_only=True).steps())


def claim(config: RunConfig, tokenizer: Tokenizer) -> pathlib.Path:
    """Makes the run folder and returns it; if it exists, makes sure that it belongs to this run.

    An existing configuration stays as it is: the loop writes the new one when it saves a state made with it.
    With several processes, the first does the work, and the others wait until it is done.

    Raises:
      ValueError: the folder holds another run, or something that is not a run.
    """
    folder = config.run_folder
    if is_primary():
        _check_ours(folder, config, tokenizer)
        if not (folder / CONFIG).exists():
            folder.mkdir(parents=True, exist_ok=True)
            tokenizer.save(folder / TOKENIZER)
            source = config.train.init_from
            hand_on_published(None if source is None else split_checkpoint(source)[0], folder)
            write_config(config, folder / CONFIG)
    wait_for_all("run folder claimed")
    return folder


def _check_ours(folder: pathlib.Path, config: RunConfig, tokenizer: Tokenizer) -> None:
    if not (folder / CONFIG).exists():
        # A run that was killed while it claimed the folder may have left these.
        ours = {LOCK_FILE, TOKENIZER, PUBLISHED, NEWEST, SHARED, LEASE_FILE}
        if folder.exists() and any(path.name not in ours and not is_partial(path.name) for path in folder.iterdir()):
            raise ValueError(f"{folder} exists and is not a run folder: choose another --folder")
        return
    check_same_run(read_config(folder / CONFIG), config, folder=folder)
    saved = load_tokenizer(folder / TOKENIZER)
    if saved.fingerprint != tokenizer.fingerprint:
        raise ValueError(
            f"{folder} was trained with another tokenizer than the data's: prepare the data with "
            f"{folder / TOKENIZER} (tokenizer.path), or choose another --folder"
        )


BestOrStep = int | Literal["best"] | None
"""A checkpoint: that of a step, the best one (``"best"``, ``checkpoint.best_by``), or the newest (None)."""


def split_checkpoint(path: pathlib.Path | str) -> tuple[pathlib.Path, BestOrStep]:
    """Returns the run's folder and the checkpoint of ``RUN``, ``RUN/checkpoints/STEP`` or ``RUN/checkpoints/best``.

    Of a run in object storage, it returns a local copy with this checkpoint.

    Raises:
      ValueError, CheckpointError, RemoteError: the run in object storage cannot be read.
    """
    path = pathlib.Path(path)
    step: BestOrStep = None
    if path.parent.name == CHECKPOINTS and (path.name.isdecimal() or path.name == "best"):
        path, step = path.parent.parent, "best" if path.name == "best" else int(path.name)
    return local_run(path, step), step


def find_step(checkpoints: Checkpoints, step: BestOrStep) -> int | None:
    """Returns the step of a checkpoint; None for the newest.

    Raises:
      ValueError: the best checkpoint is asked for, but none was kept.
    """
    if step != "best":
        return step
    best = checkpoints.best_step()
    if best is None:
        raise ValueError(
            f"{checkpoints.folder} has no best checkpoint: train with checkpoint.keep_best=True and a validation set "
            f"(or another checkpoint.best_by), or name one of the steps {checkpoints.steps()}"
        )
    return best
