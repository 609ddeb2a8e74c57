"""Stops a run that scores nothing, with a message that says why: its loss is 0, and it learns nothing.

Single batches without a scored position are allowed (long prompts, sparse masks), but not 32 steps of one objective in
a row. If the first step scores nothing, the next 31 batches are read ahead, so that such a run stops at once.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp

from lmjax.objectives import Objective
from lmjax.schedules.ramp import at_step
from lmjax.train.components import Component, components_of, turn_of
from lmjax.train.step import Learner, step_keys
from lmjax.types import Batch, Rows

STEPS_IN_A_ROW = 32


class NothingScored(ValueError):  # noqa: N818 - that is what is wrong
    """The error that no position counts in the loss."""


def nothing_scored(where: str, component: Component) -> NothingScored:
    """Returns the error for an objective that found nothing to score."""
    return NothingScored(
        f"{where}: nothing is scored by {component.title}, and its loss is 0 whatever the model says. Look at the loss "
        f"weights of the data (all 0? does data.prompt_field fill the rows, so that no answer is left of them?), at "
        f"train.sequence_length, and at what the objective hides and how the tokenizer cuts words: `lmjax preview "
        f"RECIPE` shows rows with their weights"
    )


class ScoredWatch:
    """Counts, for each objective of a run, the steps in a row that scored nothing."""

    def __init__(self, objective: Objective):
        """Begins to count for the objective of a run."""
        self._components = components_of(objective)
        self._empty: Counter[str | None] = Counter()
        self._seen: set[str | None] = set()

    def begun_without(self, trained: Component, metrics: Mapping[str, float], *, step: int) -> list[Component]:
        """Returns the objectives whose first step this was, if they scored nothing in it.

        Args:
          trained: the component that the step trained, see :func:`lmjax.train.components.turn_of`.
          metrics: the metrics of the step.
          step: the number of the step.

        Raises:
          NothingScored: an objective has scored nothing in 32 steps in a row.
        """
        begun = []
        for component in _trained_by(trained, self._components):
            name = component.name
            prefix = component.prefix.removeprefix(trained.prefix)
            counts = [n for key, n in metrics.items() if key.startswith(prefix) and key.endswith("scored_tokens")]
            self._empty[name] = self._empty[name] + 1 if counts and not any(counts) else 0
            if self._empty[name] == STEPS_IN_A_ROW:
                where = f"step {step} and the {STEPS_IN_A_ROW - 1} before it"
                raise nothing_scored(where, component)
            if self._empty[name] and name not in self._seen:
                begun.append(component)
            self._seen.add(name)
        return begun


def _trained_by(trained: Component, components: Sequence[Component]) -> Sequence[Component]:
    """Returns the components that a step trains: one of them, or all of them if it trains the whole objective."""
    return [one for one in components if trained.name in (None, one.name)]


def look_ahead(
    learner: Learner, component: Component, batches: Iterable[Rows], run_key: jax.Array, *, step: int
) -> None:
    """Makes sure that one of the next batches has scored positions for an objective whose first step had none.

    Args:
      learner: the learner of the run.
      component: the objective.
      batches: the batches that follow.
      run_key: ``TrainState.key``.
      step: the number of the step just done.

    Raises:
      NothingScored: no batch has any.
    """
    trained = turn_of(learner.objective, 0).component
    one = learner if trained.name is None else learner.of(component)
    measures = component.objective.traits.measures
    prefix = component.prefix if trained.name is None else ""

    @jax.jit
    def num_scored(rows: Rows, key: jax.Array, step: jax.Array) -> jax.Array:
        batch: Batch = at_step(one.objective, step).corrupt(key, one.own(rows), one.vocabulary)
        own = [
            w for term, w in batch.weights.items() if term.startswith(prefix) and term[len(prefix) :] not in measures
        ]
        return sum((jnp.sum(weights > 0) for weights in own), jnp.zeros((), jnp.int32))

    for ahead, rows in enumerate(itertools.islice(batches, STEPS_IN_A_ROW - 1)):
        if int(num_scored(rows, step_keys(run_key, step + ahead)[0], jnp.int32(step + ahead))):
            return
    raise nothing_scored(f"step {step} and the {STEPS_IN_A_ROW - 1} after it", component)


def refuse_unscored(sums: Mapping[str, float], component: Component) -> None:
    """Refuses the sums of an evaluation (``Learner.eval_step``) if the weights of all terms are 0.

    Raises:
      NothingScored: all weights are 0.
    """
    weights = [w for term, w in sums.items() if term.endswith("/weight")]
    if weights and not any(weights):
        raise nothing_scored("evaluation", component)
