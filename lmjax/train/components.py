"""The objectives of a run: those that are validated, the one that a step trains, and the metrics that a step reports.

Most runs have one objective. A :class:`~lmjax.objectives.mixture.Mixture` has several, its components. In a mixture by
row, a step trains all of them at once; in a mixture by step, they take turns.
"""

import dataclasses
from fractions import Fraction

import jax
import jax.numpy as jnp

from lmjax.data.rows.mixture import Interleave
from lmjax.objectives import Mixture, Objective
from lmjax.objectives.mixture import own_terms
from lmjax.objectives.parts.encoder_decoder import EncoderDecoderObjective
from lmjax.schedules.ramp import current, ramps_of
from lmjax.types import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """One objective of a run, or all of them together.

    Attributes:
      objective: the objective.
      name: its name in the mixture; None if it is the run's whole objective.
      share: its share of the loss of the run.
      mixture: the mixture that it is a part of, or None.
    """

    objective: Objective
    name: str | None = None
    share: Fraction = Fraction(1)
    mixture: Mixture | None = None

    @property
    def prefix(self) -> str:
        """The beginning of the names of its metrics: ``NAME/``, or nothing if it is the run's whole objective."""
        return "" if self.name is None else f"{self.name}/"

    @property
    def title(self) -> str:
        """The name of the component in messages."""
        kind = type(self.objective).__name__
        return kind if self.name is None else f"{kind} ({self.name!r} of the mixture)"

    def own(self, rows: Rows) -> Rows:
        """Returns the part of the run's rows that the component reads."""
        return rows if self.mixture is None else self.mixture.rows_for(self.objective, rows)


def components_of(objective: Objective) -> tuple[Component, ...]:
    """Returns the objectives of a run, each of which is validated by itself."""
    if not isinstance(objective, Mixture):
        return (Component(objective=objective),)
    return tuple(
        Component(objective=part.objective, name=part.name, share=share, mixture=objective)
        for part, share in zip(objective.parts, objective.shares, strict=True)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """The component that a step trains.

    Attributes:
      component: one of several objectives, or the run's whole objective.
      before: how many steps have trained it before.
    """

    component: Component
    before: int


def turn_of(objective: Objective, step: int) -> Turn:
    """Returns the component that a step trains.

    A mixture by step trains one of its parts; the parts are interleaved as evenly as their weights allow.
    """
    if not isinstance(objective, Mixture) or objective.by != "step":
        return Turn(component=Component(objective=objective), before=step)
    index, before = Interleave(objective.shares)(step)
    return Turn(component=components_of(objective)[index], before=before)


def leading(objective: Objective) -> Objective:
    """Returns the objective that decides how a run's model is sampled and exported: of a mixture, the first part."""
    return components_of(objective)[0].objective


def paired(objective: Objective) -> EncoderDecoderObjective | None:
    """Returns the :func:`leading` objective if it trains an encoder and a decoder, else None."""
    first = leading(objective)
    return first if isinstance(first, EncoderDecoderObjective) and first.traits.reads_with_encoder else None


def decoder_length(objective: Objective, sequence_length: int) -> int | None:
    """Returns how many positions the decoder has if the encoder has ``sequence_length``; None for a single stack."""
    pair = paired(objective)
    return None if pair is None else pair.decoder_length(sequence_length)


def metrics(objective: Objective, terms: dict[str, jax.Array], scored: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the metrics of a step: losses, how many values each is the mean of, and the values of schedules.

    A mixture reports the metrics of each part, under the part's name.

    Args:
      objective: the objective that the step trains, with its schedules evaluated at the step.
      terms: the terms of its loss.
      scored: for each term that has weights of its own, how many of these weights are above 0.
    """
    if isinstance(objective, Mixture):
        found = {
            f"{part.name}/{name}": value
            for part in objective.parts
            for name, value in metrics(
                part.objective, own_terms(part.name, terms), own_terms(part.name, scored)
            ).items()
        }
        return {"loss": objective.total(terms)} | found
    found = {name: jnp.asarray(current(ramp)) for name, ramp in ramps_of(objective).items()}
    scored = {name: number for name, number in scored.items() if name not in objective.traits.measures}
    for name, value in terms.items():
        if name not in scored:
            found[name] = value
            continue
        prefix = f"{name}/" if len(scored) > 1 else ""
        found |= {f"{prefix}loss": value, f"{prefix}scored_tokens": scored[name]}
    return found | {"loss": objective.total(terms)}
