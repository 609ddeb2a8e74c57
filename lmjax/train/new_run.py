"""A run folder made of parameters that were not trained here: imported, or extended."""

import pathlib

from lmjax.models.parameters import Params
from lmjax.naming import naming_file
from lmjax.parallel.folder_lock import folder_lock
from lmjax.parallel.signals import kept
from lmjax.tokenizers import Tokenizer
from lmjax.train.checkpoint import CheckpointConfig, Checkpoints
from lmjax.train.config import RunConfig
from lmjax.train.config_file import write_config
from lmjax.train.leaves import named_leaves, not_finite
from lmjax.train.run_folder import CHECKPOINTS, CONFIG, TOKENIZER


def make_run(folder: pathlib.Path, config: RunConfig, tokenizer: Tokenizer, params: Params) -> None:
    """Writes a run at step 0, to be evaluated, sampled, or begun with (``train.init_from``).

    Args:
      folder: holds nothing yet, see :func:`lmjax.parallel.folder_lock.fresh_folder`.
      config: what the run is to say of itself.
      tokenizer: the tokenizer of the parameters.
      params: as ``config.objective.build`` structures them.

    Raises:
      ValueError: a parameter is not finite.
    """
    bad = not_finite(named_leaves(params))
    if bad:
        raise ValueError(f"these weights are not finite in {', '.join(bad[:3])}: the model they are from is broken")
    unfinished = kept(f"{folder} is not finished: delete it, and run the command again")
    with naming_file(folder), folder_lock(folder, "is being made"), unfinished:
        tokenizer.save(folder / TOKENIZER)
        with Checkpoints(folder / CHECKPOINTS, CheckpointConfig()) as checkpoints:
            checkpoints.save(0, {"params": params}, {"step": 0})
        # Last, for it is what makes the folder a run.
        write_config(config, folder / CONFIG)
