"""An opened run: its configuration, tokenizer and module, and its parameters once they are needed."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax
from flax import nnx

from lmjax.models.parameters import ModuleSpec, Params
from lmjax.models.with_extras import MODEL, model_spec
from lmjax.parallel.mesh import MeshConfig
from lmjax.tokenizers import Tokenizer, load_tokenizer
from lmjax.train.checkpoint import CheckpointConfig, Checkpoints
from lmjax.train.config import RunConfig
from lmjax.train.config_file import read_config
from lmjax.train.run_folder import CHECKPOINTS, CONFIG, TOKENIZER, BestOrStep, find_step
from lmjax.train.setup import build_learner
from lmjax.train.step import Learner

Restored = tuple[Params, int]
"""Parameters, and the number of updates they had."""


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """A run that can be used, on one device.

    Attributes:
      folder: the run folder, or the Hugging Face folder.
      config: what it was trained with.
      tokenizer: its tokenizer.
      learner: its learner.
      restore: reads the parameters; it is called once, when they are first needed.
      imported: whether the model was made by another program.
    """

    folder: pathlib.Path
    config: RunConfig
    tokenizer: Tokenizer
    learner: Learner
    restore: Callable[[], Restored]
    imported: bool = False

    @functools.cached_property
    def _restored(self) -> Restored:
        return self.restore()

    @property
    def params(self) -> Params:
        """Its parameters (their moving average, where the run kept one)."""
        return self._restored[0]

    @property
    def step(self) -> int:
        """The number of updates its parameters had."""
        return self._restored[1]

    @property
    def spec(self) -> ModuleSpec:
        """Its module, with what the objective adds for training; its values are :attr:`params`."""
        return self.learner.spec

    @property
    def model_params(self) -> Params:
        """The parameters of its model alone."""
        return self.params[MODEL]

    @functools.cached_property
    def model_spec(self) -> ModuleSpec:
        """Its model alone; its values are :attr:`model_params`."""
        config = self.config
        return model_spec(lambda key: config.objective.build(config.model, rngs=nnx.Rngs(params=key)))

    @property
    def max_length(self) -> int | None:
        """The number of positions that the model has learned; None where it has no such limit."""
        model = self.config.model
        return model.max_length if model.positions == "learned" else None


def make_learner(config: RunConfig, tokenizer: Tokenizer) -> tuple[RunConfig, Learner]:
    """Returns the configuration for the first device alone, and its learner.

    Products of 8 bits are for training: this device may have none, and the model is the same without them.

    Raises:
      ValueError: the parts of the configuration do not go together.
    """
    train = dataclasses.replace(config.train, microbatches=1, gradient_noise=False)
    execution = dataclasses.replace(config.model.execution, low_precision="none")
    model = dataclasses.replace(config.model, execution=execution)
    config = dataclasses.replace(config, mesh=MeshConfig(), train=train, model=model)
    return config, build_learner(config, tokenizer.vocabulary, devices=jax.local_devices()[:1])


def open_folder(folder: pathlib.Path, *, step: BestOrStep = None) -> Opened:
    """Opens a run folder.

    Args:
      folder: the run folder.
      step: the checkpoint to use, by its step or ``"best"``; the newest intact one when None.

    Raises:
      ValueError: the folder is not a run, has no checkpoint yet, or none of that step.
      CheckpointError: all checkpoints there are set aside as damaged. Reading the parameters raises it, too, if none is
        intact.
    """
    config, tokenizer = read_config(folder / CONFIG), load_tokenizer(folder / TOKENIZER)
    config, learner = make_learner(config, tokenizer)
    with Checkpoints(folder / CHECKPOINTS, CheckpointConfig(), read_only=True) as checkpoints:
        checkpoints.check_not_only_set_aside()
        if checkpoints.latest_step() is None:
            raise ValueError(f"{folder} has no checkpoint yet: train it until its first save (checkpoint.every_steps)")
        number = find_step(checkpoints, step)
        if number is not None and number not in checkpoints.steps():
            raise ValueError(f"no checkpoint of step {number} in {checkpoints.folder}: there are {checkpoints.steps()}")

    def restore() -> Restored:
        with Checkpoints(folder / CHECKPOINTS, CheckpointConfig(), read_only=True) as checkpoints:
            return checkpoints.restore_params(learner.abstract_state.params, step=number)

    return Opened(folder, config, tokenizer, learner, restore)
