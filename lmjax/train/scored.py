"""A run that scores nothing has loss 0 and learns nothing, whatever the reason: it is stopped, and told why.

Single batches without a scored position are legal (long prompts, sparse masks); 32 steps of one objective in a row
are not. At the first step the next 31 batches are looked at ahead, so that such a run stops there and then.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from lmjax.objectives import Objective
from lmjax.train.step import Learner, step_keys
from lmjax.types import Batch, Rows

STEPS_IN_A_ROW = 32


class NothingScored(ValueError):  # noqa: N818 - that is what is wrong
    """No position counts in the loss."""


def nothing_scored(where: str, name: str, objective: Objective) -> NothingScored:
    """The error for an objective that found nothing to score."""
    who = type(objective).__name__ + (f" ({name!r} of the mixture)" if name else "")
    return NothingScored(
        f"{where}: nothing is scored by {who}, and its loss is 0 whatever the model says. Look at the loss weights of "
        f"the data (all 0? does data.prompt_field fill the rows, so that no answer is left of them?), at "
        f"train.sequence_length, and at what the objective hides and how the tokenizer cuts words: `lmjax preview "
        f"RECIPE` shows rows with their weights"
    )


class ScoredWatch:
    """Counts, for each objective of a run, the steps in a row that scored nothing."""

    def __init__(self, objective: Objective):
        """Of the run's objective."""
        self._objective = objective
        self._components = objective.components()
        self._empty: Counter[str] = Counter()
        self._seen: set[str] = set()

    def begun_without(self, component: str, metrics: Mapping[str, float], *, step: int) -> list[str]:
        """The objectives whose first step this was and that scored nothing in it.

        Args:
          component: whose turn the step was, see ``Objective.turn``.
          metrics: what the step reports.
          step: its number.

        Raises:
          NothingScored: one has had 32 such steps in a row.
        """
        begun = []
        for name in [component] if component or "" in self._components else self._components:
            prefix = "" if name == component else f"{name}/"
            counts = [n for key, n in metrics.items() if key.startswith(prefix) and key.endswith("scored_tokens")]
            self._empty[name] = self._empty[name] + 1 if counts and not any(counts) else 0
            if self._empty[name] == STEPS_IN_A_ROW:
                where = f"step {step} and the {STEPS_IN_A_ROW - 1} before it"
                raise nothing_scored(where, name, self._components[name])
            if self._empty[name] and name not in self._seen:
                begun.append(name)
            self._seen.add(name)
        return begun


def look_ahead(learner: Learner, name: str, batches: Iterable[Rows], run_key: jax.Array, *, step: int) -> None:
    """Makes sure that one of the next batches has something for an objective that scored nothing in its first step.

    Args:
      learner: of the run.
      name: of the objective among its components.
      batches: those that follow.
      run_key: ``TrainState.key``.
      step: the step just done.

    Raises:
      NothingScored: none has.
    """
    by_step = bool(learner.objective.turn(0)[0])
    one = learner.components[name] if by_step else learner
    measures = learner.components[name].objective.measures
    prefix = f"{name}/" if name and not by_step else ""

    @jax.jit
    def num_scored(rows: Rows, key: jax.Array, step: jax.Array) -> jax.Array:
        batch: Batch = one.objective.at(step).corrupt(key, one.own(rows), one.vocabulary)
        own = [
            w for term, w in batch.weights.items() if term.startswith(prefix) and term[len(prefix) :] not in measures
        ]
        return sum((jnp.sum(weights > 0) for weights in own), jnp.zeros((), jnp.int32))

    for ahead, rows in enumerate(itertools.islice(batches, STEPS_IN_A_ROW - 1)):
        if int(num_scored(rows, step_keys(run_key, step + ahead)[0], jnp.int32(step + ahead))):
            return
    raise nothing_scored(f"step {step} and the {STEPS_IN_A_ROW - 1} after it", name, learner.components[name].objective)


def refuse_unscored(sums: Mapping[str, float], name: str, objective: Objective) -> None:
    """Refuses the sums of an evaluation (``Learner.eval_step``) in which no term weighs anything.

    Raises:
      NothingScored: none does.
    """
    weights = [w for term, w in sums.items() if term.endswith("/weight")]
    if weights and not any(weights):
        raise nothing_scored("evaluation", name, objective)
