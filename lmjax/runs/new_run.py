"""Makes a run folder of parameters that were not trained there: of an imported or an extended model."""

import pathlib

from lmjax.models.parameters import Params, named_leaves
from lmjax.naming import naming_file
from lmjax.parallel.folder_lock import folder_lock
from lmjax.parallel.signals import kept
from lmjax.tokenizers import Tokenizer
from lmjax.train.checkpoint import CheckpointConfig, Checkpoints
from lmjax.train.config import RunConfig
from lmjax.train.config_file import write_config
from lmjax.train.leaves import not_finite
from lmjax.train.run_folder import CHECKPOINTS, CONFIG, TOKENIZER


def make_run(folder: pathlib.Path, config: RunConfig, tokenizer: Tokenizer, params: Params) -> None:
    """Writes a run at step 0. It can be evaluated and sampled, and another run can begin with it (``train.init_from``).

    Args:
      folder: an empty folder, see :func:`lmjax.parallel.folder_lock.fresh_folder`.
      config: the configuration to write there.
      tokenizer: the tokenizer of the parameters.
      params: the parameters of the module that ``config.objective.build`` makes.

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
        # This file is written last, because a folder that has it is taken for a run.
        write_config(config, folder / CONFIG)
