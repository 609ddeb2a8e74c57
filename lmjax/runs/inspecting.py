"""Reads the rows of a step of a run again, with the loss and the gradient of each row by itself."""

import dataclasses
import functools
import math
import pathlib

import jax
import optax

from lmjax.models.parameters import Params
from lmjax.objectives import Mixture, Objective
from lmjax.objectives.parts.objective import all_terms
from lmjax.runs.opened import Opened, make_learner
from lmjax.schedules.ramp import at_step
from lmjax.tokenizers import load_tokenizer
from lmjax.train.checkpoint import Checkpoints
from lmjax.train.components import turn_of
from lmjax.train.config_file import read_config
from lmjax.train.corpus import Corpus
from lmjax.train.curriculum import Curriculum, curriculum
from lmjax.train.metrics import read_metrics
from lmjax.train.optimizers import with_frozen
from lmjax.train.record import Record, read_record
from lmjax.train.run_folder import CHECKPOINTS, CONFIG, TOKENIZER
from lmjax.train.step import Learner, normalised, run_keys, step_keys
from lmjax.types import Batch, Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectedRow:
    """A row of a step.

    Attributes:
      number: the number of the row in the data of the run.
      text: its text.
      loss: the mean loss of the row alone; NaN where the objective has no loss of single rows.
      grad_norm: the norm of the gradient of this loss.
    """

    number: int
    text: str
    loss: float
    grad_norm: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectedStep:
    """The rows of a step.

    Attributes:
      step: the number of the step, from 1.
      checkpoint: the step of the checkpoint whose parameters the losses are of; 0 for the initial parameters.
      by_row: whether rows have losses of their own.
      rows: the rows, in their order.
    """

    step: int
    checkpoint: int
    by_row: bool
    rows: tuple[InspectedRow, ...]


def open_unsaved(folder: pathlib.Path) -> Opened:
    """Opens a run folder that may have no checkpoint yet; its parameters are then the initial ones.

    Raises:
      ValueError: the folder is not a run.
    """
    config, tokenizer = read_config(folder / CONFIG), load_tokenizer(folder / TOKENIZER)
    config, learner = make_learner(config, tokenizer)
    return Opened(folder, config, tokenizer, learner, lambda: _params_before(folder, learner, config.train.seed, 1))


def inspect_step(run: Opened, corpus: Corpus, step: int, *, roll_back: int | None = None) -> InspectedStep:
    """Reads the rows of a step, and measures each row by itself with the parameters of the last checkpoint before it.

    The rows are corrupted as the step corrupts them. There is no dropout, and a memory that rows carry is empty.

    Args:
      run: the run, see :func:`open_unsaved`.
      corpus: the data of the run.
      step: the number of the step, from 1.
      roll_back: the number of a roll-back, from 1, to see the rows that it has passed over; ``step`` then counts as
        the run counted before this roll-back.

    Raises:
      ValueError: there is no such step or roll-back.
      CheckpointError: no checkpoint can be read.
    """
    if step < 1:
        raise ValueError(f"step={step}: the steps of a run are counted from 1")
    config, learner = run.config, run.learner
    turn = turn_of(config.objective, step - 1).component
    own = learner.of(turn)
    phases = _phases(run, read_record(run.folder), roll_back)
    rows = next(phases.batches(phases.rows(corpus, seed=config.train.seed), start_step=step - 1))
    first = phases.at(step - 1).consumed(step - 1) // phases.at(step - 1).stride
    params, checkpoint = _params_before(run.folder, learner, config.train.seed, step)
    by_row = not (isinstance(own.objective, Mixture) or own.objective.traits.couples_examples)
    measured = [(math.nan, math.nan)] * len(rows.tokens_BT)
    if by_row:
        updates = step - 1 - _skipped_before(run.folder, step)
        measured = _measured(own, params, rows, seed=config.train.seed, updates=updates)
    return InspectedStep(
        step=step,
        checkpoint=checkpoint,
        by_row=by_row,
        rows=tuple(
            InspectedRow(number=first + place, text=text, loss=loss, grad_norm=grad_norm)
            for place, (text, (loss, grad_norm)) in enumerate(zip(_texts(run, rows), measured, strict=True))
        ),
    )


def _phases(run: Opened, record: Record | None, roll_back: int | None) -> Curriculum:
    passed_over = () if record is None else record.passed_over
    if roll_back is not None and not 1 <= roll_back <= len(passed_over):
        raise ValueError(f"roll_back={roll_back}: {run.folder} has rolled back {len(passed_over)} times")
    if record is None:
        return curriculum(run.config.objective, run.config.train)
    before = passed_over if roll_back is None else passed_over[: roll_back - 1]
    return dataclasses.replace(record, passed_over=before).curriculum(run.config)


def _params_before(folder: pathlib.Path, learner: Learner, seed: int, step: int) -> tuple[Params, int]:
    """Returns the parameters of the last checkpoint before a step, and how many steps these have had."""
    with Checkpoints(folder / CHECKPOINTS, read_only=True) as checkpoints:
        before = max((saved for saved in checkpoints.steps() if saved < step), default=None)
        if before is not None:
            return checkpoints.restore_params(learner.abstract_state.params, ema=False, step=before)
    return learner.init(seed).params, 0


def _skipped_before(folder: pathlib.Path, step: int) -> int:
    try:
        lines = read_metrics(folder)
    except FileNotFoundError:
        return 0
    return max((int(line.get("skipped_updates", 0)) for line in lines if line["step"] < step), default=0)


def _texts(run: Opened, rows: Rows) -> list[str]:
    kept = [slice(None)] * len(rows.tokens_BT) if rows.segments_BT is None else rows.segments_BT != 0
    return [run.tokenizer.decode(tokens_T[own].tolist()) for tokens_T, own in zip(rows.tokens_BT, kept, strict=True)]


def _measured(learner: Learner, params: Params, rows: Rows, *, seed: int, updates: int) -> list[tuple[float, float]]:
    """Returns the loss and the norm of the gradient of each row."""
    _, run_key = run_keys(jax.random.key(seed))
    corrupt_key, _ = step_keys(run_key, updates)
    objective = at_step(learner.objective, updates)
    batch = jax.jit(lambda key, rows: objective.corrupt(key, learner.own(rows), learner.vocabulary))(corrupt_key, rows)
    batch = dataclasses.replace(batch, carry=learner.empty_carry())
    one_row = jax.jit(functools.partial(_one_row, learner, objective))
    return [tuple(map(float, one_row(params, batch, place))) for place in range(len(rows.tokens_BT))]  # type: ignore[misc]


def _one_row(
    learner: Learner, objective: Objective, params: Params, batch: Batch, place: jax.Array
) -> tuple[jax.Array, jax.Array]:
    row = jax.tree.map(lambda leaf: leaf if len(leaf) == 1 else jax.lax.dynamic_slice_in_dim(leaf, place, 1), batch)
    row = dataclasses.replace(row, weights=jax.tree.map(normalised, row.weights))

    def loss(trained: Params) -> jax.Array:
        terms, _ = all_terms(objective, learner.spec.bind(with_frozen(trained, params)), row, None)
        return objective.total(terms)

    value, grads = jax.value_and_grad(loss)(learner.trained(params))
    return value, optax.tree.norm(grads)
