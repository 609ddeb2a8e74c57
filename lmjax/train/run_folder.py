"""A run's folder: claimed by the first start, recognised by the next, opened for sampling and evaluation.

::

    config.json   tokenizer/   published/   checkpoints/   metrics.jsonl   tensorboard/   loss.png   profile/
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

import jax

from lmjax.models.parameters import Params
from lmjax.parallel.distributed import is_primary, wait_for_all
from lmjax.parallel.mesh import MeshConfig
from lmjax.tokenizers import Tokenizer, load_tokenizer
from lmjax.train.checkpoint import CheckpointConfig, Checkpoints
from lmjax.train.config import RunConfig
from lmjax.train.config_file import FREE_ON_RESUME, differences, read_config, write_config
from lmjax.train.published import PUBLISHED, hand_on_published
from lmjax.train.setup import build_learner
from lmjax.train.step import Learner

CONFIG = "config.json"
TOKENIZER = "tokenizer"
CHECKPOINTS = "checkpoints"


def claim(config: RunConfig, tokenizer: Tokenizer) -> pathlib.Path:
    """Makes the run folder, or makes sure that the one that is there is this run's.

    With several processes the first does it, and nobody goes on before it is done.

    Raises:
      ValueError: the folder holds another run, or something that is no run.
    """
    folder = config.run_folder
    if is_primary():
        _check_ours(folder, config, tokenizer)
        if not (folder / CONFIG).exists():
            folder.mkdir(parents=True, exist_ok=True)
            tokenizer.save(folder / TOKENIZER)
            hand_on_published(config.train.init_from, folder)
        write_config(config, folder / CONFIG)
    wait_for_all("run folder claimed")
    return folder


def _check_ours(folder: pathlib.Path, config: RunConfig, tokenizer: Tokenizer) -> None:
    if not (folder / CONFIG).exists():
        # What a run that was killed while it claimed the folder may leave.
        ours = {TOKENIZER, PUBLISHED, (folder / CONFIG).with_suffix(".tmp").name}
        if folder.exists() and any(path.name not in ours for path in folder.iterdir()):
            raise ValueError(f"{folder} exists and is not a run folder: choose another --folder")
        return
    changed = {
        path: values
        for path, values in differences(read_config(folder / CONFIG), config).items()
        if not any(path == free or path.startswith(f"{free}.") for free in FREE_ON_RESUME)
    }
    if changed:
        path, (there, here) = next(iter(changed.items()))
        raise ValueError(
            f"{folder} holds another run: its {path} is {there!r}, here it is {here!r}"
            + (f" (and {len(changed) - 1} more fields differ)" if len(changed) > 1 else "")
            + ": choose another --folder, or delete that one to start anew"
        )
    saved = load_tokenizer(folder / TOKENIZER)
    if saved.fingerprint != tokenizer.fingerprint:
        raise ValueError(
            f"{folder} was trained with another tokenizer than the data's: prepare the data with "
            f"{folder / TOKENIZER} (tokenizer.path), or choose another --folder"
        )


def has_checkpoint(folder: pathlib.Path) -> bool:
    """Whether a run in this folder would go on, and not begin."""
    return bool(Checkpoints(folder / CHECKPOINTS, read_only=True).steps())


@contextlib.contextmanager
def naming(folder: pathlib.Path) -> Iterator[None]:
    """Names ``folder`` in an ``OSError`` that names no file, as that of a write to a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(folder)
        raise


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run, opened to be used.

    Attributes:
      config: what it was trained with.
      tokenizer: its tokenizer.
      learner: its learner, on one device.
      params: its parameters (their moving average, where it kept one).
      step: updates they had.
    """

    config: RunConfig
    tokenizer: Tokenizer
    learner: Learner
    params: Params
    step: int


def open_run(folder: pathlib.Path | str, *, step: int | None = None) -> Run:
    """Loads a run's parameters from its newest intact checkpoint, or from that of ``step``.

    Raises:
      ValueError: the folder is not a run, has no checkpoint yet, or none of that step.
      CheckpointError: it has no checkpoint that is intact.
    """
    folder = pathlib.Path(folder)
    config = dataclasses.replace(read_config(folder / CONFIG), mesh=MeshConfig())
    tokenizer = load_tokenizer(folder / TOKENIZER)
    train = dataclasses.replace(config.train, microbatches=1)
    config = dataclasses.replace(config, train=train)
    learner = build_learner(config, tokenizer.vocabulary, devices=jax.local_devices()[:1])
    with Checkpoints(folder / CHECKPOINTS, CheckpointConfig(), read_only=True) as checkpoints:
        if checkpoints.latest_step() is None:
            raise ValueError(f"{folder} has no checkpoint yet: train it until its first save (checkpoint.every_steps)")
        params, step = checkpoints.restore_params(learner.abstract_state.params, step=step)
    return Run(config, tokenizer, learner, params, step)
