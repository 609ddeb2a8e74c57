"""Begins a run with the weights of another run (``train.init_from``), as for more pretraining, preferences or rewards.

The run takes over the model of the other run. The extras of its objective are new, or
:meth:`~lmjax.objectives.Objective.adopt` makes them. The optimizer, the step and the place in the data start afresh.
Both runs must have the same model and tokenizer. This module compares the names and shapes of the parameters;
:mod:`lmjax.train.other_run` compares the fields of the model that decide neither.
"""

import dataclasses
import pathlib

import jax
from flax import nnx

from lmjax.models.parameters import ModuleSpec, Params, named_leaves
from lmjax.models.with_extras import EXTRAS, MODEL, trained_spec
from lmjax.naming import naming
from lmjax.objectives import Objective
from lmjax.tokenizers import load_tokenizer
from lmjax.train.checkpoint import Checkpoints
from lmjax.train.components import leading
from lmjax.train.config import RunConfig
from lmjax.train.config_file import read_config
from lmjax.train.leaves import described
from lmjax.train.other_run import check_same_model
from lmjax.train.run_folder import CHECKPOINTS, CONFIG, TOKENIZER, find_step, split_checkpoint
from lmjax.train.state import TrainState
from lmjax.train.step import Learner, run_keys

SHOWN = 3
"""How many parameters a message names that are missing, superfluous or of another shape, of each of these kinds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Source:
    """The run that the weights come from; ``step=None`` means its newest checkpoint."""

    run: pathlib.Path
    step: int | None
    config: RunConfig
    spec: ModuleSpec


def initial_state(learner: Learner, folder: pathlib.Path | str, *, seed: int) -> TrainState:
    """Returns the state before the first step of a run that begins with the weights of another run.

    Args:
      learner: the learner of the new run.
      folder: as for :func:`initial_params`.
      seed: the seed of the new run.

    Raises:
      ValueError, CheckpointError: as for :func:`initial_params`.
    """
    params = initial_params(learner, folder, seed=seed)
    return learner.with_params(learner.init(seed), params)


def initial_params(learner: Learner, folder: pathlib.Path | str, *, seed: int) -> Params:
    """Returns the parameters that a run begins with, sharded as the learner has them.

    Args:
      learner: the learner of the new run.
      folder: a run folder, for its newest intact checkpoint, or ``RUN/checkpoints/STEP``; the moving
        average is taken if that run kept one.
      seed: the seed of the parameters that are new.

    Raises:
      ValueError: the folder is no run or has no checkpoint, or its model or tokenizer is another one.
      CheckpointError: the run has no checkpoint that is intact.
    """
    source = check_initial(learner, folder)
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        source.spec.shapes,
        source.spec.shardings(learner.mesh),
    )
    with Checkpoints(source.run / CHECKPOINTS, read_only=True) as checkpoints:
        saved, _ = checkpoints.restore_params(abstract, step=source.step)

    def adopted(key: jax.Array, saved: Params) -> Params:
        return adopted_params(learner.objective, learner.spec.init(key), saved, source=source.config.objective)

    init_key, _ = run_keys(jax.random.key(seed))
    with jax.set_mesh(learner.mesh):
        return jax.jit(adopted, out_shardings=learner.spec.shardings(learner.mesh))(init_key, saved)


def adopted_params(objective: Objective, fresh: Params, saved: Params, *, source: Objective) -> Params:
    """Returns the parameters of the other run's model, together with the extras of this run's objective.

    Args:
      objective: the objective of this run.
      fresh: the initial parameters of this run.
      saved: the parameters of the other run.
      source: the objective of the other run.
    """
    own, other = leading(objective), leading(source)
    params = {MODEL: saved[MODEL]}
    if EXTRAS in fresh:
        known = saved.get(EXTRAS, {}) if type(own) is type(other) else {}
        params[EXTRAS] = own.adopt(fresh[EXTRAS], model=saved[MODEL], saved=known)
    return params


def check_initial(learner: Learner, folder: pathlib.Path | str) -> _Source:
    """Refuses a folder that :func:`initial_params` cannot use, without reading weights.

    Raises:
      ValueError: the folder cannot be used; the message names it and says what is wrong.
    """
    source = _open_source(pathlib.Path(folder))
    vocabulary = load_tokenizer(source.run / TOKENIZER).vocabulary
    if vocabulary.fingerprint != learner.vocabulary.fingerprint:
        raise ValueError(
            f"train.init_from={folder} was trained with another tokenizer than the data's, and its embeddings mean "
            f"other tokens: set tokenizer.path to {source.run / TOKENIZER}"
        )
    _check_parameters(learner.objective, learner.spec, source, folder)
    return source


def check_initial_model(config: RunConfig, spec: ModuleSpec) -> None:
    """Refuses what :func:`check_initial` does and a model that computes something else, whatever the tokenizers are.

    Args:
      config: the resolved configuration of the new run, of which ``train.init_from`` is set.
      spec: the module of the new run.

    Raises:
      ValueError: the folder cannot be used, or a field of the model differs.
    """
    folder = config.train.init_from
    assert folder is not None
    source = _open_source(pathlib.Path(folder))
    _check_parameters(config.objective, spec, source, folder)
    check_same_model(source.config, config)


def _check_parameters(objective: Objective, spec: ModuleSpec, source: _Source, folder: pathlib.Path | str) -> None:
    wanted = described(named_leaves(spec.shapes))
    adopted = adopted_params(objective, spec.shapes, source.spec.shapes, source=source.config.objective)
    given = described(named_leaves(adopted))
    differing = {
        "missing there": [name for name in wanted if name not in given],
        "unknown here": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} ({given[name]} there, {wanted[name]} here)"
            for name in wanted
            if given.get(name, wanted[name]) != wanted[name]
        ],
    }
    problems = [
        f"{what}: {', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}"
        for what, names in differing.items()
        if names
    ]
    if problems:
        raise ValueError(
            f"train.init_from={folder} is of another model ({'; '.join(problems)}): make the fields of model those in "
            f"{source.run / CONFIG}"
        )


def check_is_there(folder: pathlib.Path | str) -> None:
    """Refuses a folder that is no run, or has no such checkpoint; it looks at nothing else.

    Raises:
      ValueError: the message names the folder and says what is wrong.
    """
    _find_checkpoint(pathlib.Path(folder))


def _open_source(path: pathlib.Path) -> _Source:
    run, step, config = _find_checkpoint(path)
    spec = trained_spec(lambda key: config.objective.build(config.model, rngs=nnx.Rngs(params=key)))
    return _Source(run=run, step=step, config=config, spec=spec)


def _find_checkpoint(path: pathlib.Path) -> tuple[pathlib.Path, int | None, RunConfig]:
    run, step = split_checkpoint(path)
    with naming(f"train.init_from={path}"):
        config = read_config(run / CONFIG)
    checkpoints = Checkpoints(run / CHECKPOINTS, read_only=True)
    there, step = checkpoints.steps(), find_step(checkpoints, step)
    if not there or step not in (None, *there):
        raise ValueError(
            f"train.init_from={path}: there is no such checkpoint; "
            + (f"of that run there are steps {there}" if there else "train that run until its first save")
        )
    return run, step, config
