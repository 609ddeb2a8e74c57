"""Several objectives that train one model in one run.

``by="row"`` gives each objective a share of every step's rows; the mixture is then an objective like any other.
``by="step"`` gives each objective whole steps in turn; the mixture then only names the parts, and the training loop
asks :func:`lmjax.train.components.turn_of` for the part that a step trains.

With weights ``w_i`` of sum W, and ``L_i`` the loss objective i has in a run of its own (a mean over its own scored
tokens), the loss to minimise is

    by="step"   L_i  at step s, i = i(s): of the first n steps, i has n w_i / W, give or take one for each objective
    by="row"    sum over i of  (w_i / W) L_i  at every step, each taken over  w_i / W  of the step's rows

so that in both a weight is an objective's share of the data and of the gradient. Which steps or how many rows an
objective has depends on the weights and the step's number alone.

Axes: G groups of rows, P rows of a group, C rows that are chosen of a group.
"""

import bisect
import dataclasses
import math
import re
from fractions import Fraction
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.models.layers import split_key
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.models.with_extras import trained_spec
from lmjax.naming import naming
from lmjax.objectives.parts.objective import Objective, Terms, Traits, all_terms, carries_rows
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One objective of a mixture."""

    name: str
    """What its metrics are called: `train/NAME/loss`, `valid/NAME/loss`."""
    objective: Objective
    """The objective."""
    weight: float = 1.0
    """Its share of the steps or rows, in any unit."""

    def __post_init__(self):
        if not re.fullmatch(r"\w+", self.name):
            raise ValueError(f"objective.parts: name={self.name!r}: use letters, digits and underscores")
        if isinstance(self.objective, Mixture):
            raise ValueError(f"objective.parts: {self.name!r} is a mixture itself: list its objectives here instead")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"objective.parts: weight={self.weight} of {self.name!r}: must be above 0")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class MixedBatch(Batch):
    """The batches of the objectives. Their weights are moved here, under the names ``<name>/<term>``.

    The streams of the first objective are those of the whole.
    """

    parts: dict[str, Batch]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture(Objective):
    """Objectives that train one model; terms are named ``<name>/<term>``.

    Rows are as long as the neediest objective asks for, and each takes the beginning of a row, as much
    as it needs; what it leaves of a row is not trained on in that epoch.
    """

    parts: tuple[Part, ...] = ()
    """The objectives. The first is the one the model is sampled from."""
    by: Literal["step", "row"] = "step"
    """Train each step on one objective, or each step on all of them, on different rows."""

    def __post_init__(self):
        super().__post_init__()
        names = [part.name for part in self.parts]
        if not names:
            raise ValueError("objective.parts=(): give at least one Part(name=..., objective=...)")
        if len(set(names)) < len(names):
            raise ValueError(f"objective.parts are named {', '.join(names)}: give each a name of its own")

    @property
    def shares(self) -> tuple[Fraction, ...]:
        """The weight of each objective as an exact share of 1."""
        weights = [Fraction(part.weight).limit_denominator(10**9) for part in self.parts]
        return tuple(weight / sum(weights) for weight in weights)

    @property
    def traits(self) -> Traits:
        """The traits of the first part, whose model and data are the same as those of the others.

        By row, rows come in multiples of the fewest rows of which every part has a whole number.
        """
        first = self.parts[0].objective.traits
        untrained = [part.objective.traits.instead_of_text for part in self.parts]
        multiple = math.lcm(*(share.denominator for share in self.shares)) if self.by == "row" else 1
        return dataclasses.replace(
            first,
            couples_examples=False,
            row_multiple=multiple,
            measures=frozenset(),
            text_term=None,
            instead_of_text=None if None in untrained else first.instead_of_text,
        )

    def row_length(self, sequence_length: int) -> int:
        """Returns the length that the neediest part asks for."""
        return max(part.objective.row_length(sequence_length) for part in self.parts)

    def rows_for(self, objective: Objective, rows: Rows) -> Rows:
        """Returns as much of the beginning of each row as a part needs."""
        length = rows.tokens_BT.shape[1]
        sequence_length = 1 + bisect.bisect_left(range(1, 2**30), length, key=self.row_length)
        own_length = objective.row_length(sequence_length)
        return jax.tree.map(lambda array_BT: array_BT[:, :own_length], rows)

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses what any of the objectives refuses, and objectives that cannot share a model or a batch."""
        row_length = self.row_length(sequence_length)
        for part in self.parts:
            with naming(f"{part.name!r} of the mixture"):
                part.objective.check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
            if part.objective.traits.num_members > 1 and part.objective.row_length(sequence_length) != row_length:
                raise ValueError(
                    f"objective.parts: {part.name!r} ({type(part.objective).__name__}) reads several texts a row and "
                    f"cannot take the beginning of longer rows, which another objective asks for: train it by itself"
                )
            if carries_rows(part.objective, model):
                raise ValueError(
                    f"objective.parts: {part.name!r} ({type(part.objective).__name__}) carries a memory from each step "
                    f"to the next, and here the next is another's: train it by itself"
                )
            if self.by == "row" and part.objective.traits.couples_examples:
                raise ValueError(
                    f"objective.by='row': {part.name!r} ({type(part.objective).__name__}) compares the rows of a "
                    f"batch with each other, of which it would have a part only: set it to 'step'"
                )
        first, *others = ((part, _spec(part.objective, model)) for part in self.parts)
        for other in others:
            _check_same_model(first, other)

    def check_data(self, data: DataConfig) -> None:
        """Refuses data that any of the objectives refuses."""
        for part in self.parts:
            with naming(f"{part.name!r} of the mixture"):
                part.objective.check_data(data)

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the module of the first part; the others train the same."""
        return self.parts[0].objective.build(model, rngs=rngs)

    def adopt(self, fresh: Params, *, model: Params, saved: Params) -> Params:
        """Returns the extras of the first part, whose module it is."""
        return self.parts[0].objective.adopt(fresh, model=model, saved=saved)

    def divide(self, key: jax.Array, rows: Rows) -> dict[str, Rows]:
        """Returns the rows of each part, by row.

        Every ``traits.row_multiple`` neighbouring rows hold a fixed number of rows for each part. Which rows
        these are is drawn from ``key``: a fixed pattern could fall in step with that of a mixture of data.
        Neighbouring rows are on one device and in one microbatch, so no row is moved between devices.

        Args:
          key: PRNG key.
          rows: [B, ...], B a multiple of ``traits.row_multiple``.
        """
        period = self.traits.row_multiple
        num_groups = rows.tokens_BT.shape[0] // period
        order_GP = jnp.argsort(jax.random.uniform(key, (num_groups, period)), axis=1)
        divided, first = {}, 0
        for part, share in zip(self.parts, self.shares, strict=True):
            last = first + int(share * period)
            chosen_GC1 = order_GP[:, first:last, None]

            def take(array_BT: jax.Array, chosen_GC1: jax.Array = chosen_GC1) -> jax.Array:
                array_GPT = array_BT.reshape(num_groups, period, -1)
                return jnp.take_along_axis(array_GPT, chosen_GC1, axis=1).reshape(-1, array_BT.shape[1])

            divided[part.name] = jax.tree.map(take, rows)
            first = last
        return divided

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Divides the rows and corrupts each part's share, by row.

        Raises:
          TypeError: the mixture is by step, where a batch is that of the part whose turn it is.
        """
        if self.by == "step":
            raise TypeError("a mixture by step trains one part at a time: see lmjax.train.components.turn_of")
        divide_key, *keys = jax.random.split(key, 1 + len(self.parts))
        divided = self.divide(divide_key, rows)
        batches = {
            part.name: part.objective.corrupt(part_key, self.rows_for(part.objective, divided[part.name]), vocabulary)
            for part, part_key in zip(self.parts, keys, strict=True)
        }
        first = batches[self.parts[0].name]
        return MixedBatch(
            inputs=first.inputs,
            targets_BP=first.targets_BP,
            encoder=first.encoder,
            cross_mask=first.cross_mask,
            weights={f"{name}/{term}": w for name, batch in batches.items() for term, w in batch.weights.items()},
            parts={name: dataclasses.replace(batch, weights={}) for name, batch in batches.items()},
        )

    def terms(self, model: Any, batch: Batch, key: jax.Array | None) -> Terms:
        """Returns every part's terms on its rows, by row; the model runs once for each part."""
        assert isinstance(batch, MixedBatch)
        sums: dict[str, jax.Array] = {}
        for part, part_key in zip(self.parts, split_key(key, len(self.parts)), strict=True):
            own = dataclasses.replace(batch.parts[part.name], weights=own_terms(part.name, batch.weights))
            # The balance terms of each part are among its own: its rows are not those of the others.
            found, _ = all_terms(part.objective, model, own, part_key)
            sums |= {f"{part.name}/{term}": value for term, value in found.items()}
        return Terms(sums, routing=None)

    def total(self, terms: dict[str, jax.Array]) -> jax.Array:
        """Returns the mean of the parts' losses by weight."""
        losses = [part.objective.total(own_terms(part.name, terms)) for part in self.parts]
        return sum((float(s) * loss for s, loss in zip(self.shares, losses, strict=True)), jnp.zeros(()))

    def for_evaluation(self) -> "Mixture":
        """Returns the mixture of the parts as they are evaluated."""
        parts = (dataclasses.replace(part, objective=part.objective.for_evaluation()) for part in self.parts)
        return dataclasses.replace(self, parts=tuple(parts))


def own_terms(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of one part, ``NAME/TERM``, under the names of the part's own terms."""
    prefix = f"{name}/"
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


def _spec(objective: Objective, model: ModelConfig) -> ModuleSpec:
    return trained_spec(lambda key: objective.build(model, rngs=nnx.Rngs(params=key)))


def _check_same_model(one: tuple[Part, ModuleSpec], other: tuple[Part, ModuleSpec]) -> None:
    """Refuses two objectives that do not train the same model.

    Raises:
      ValueError: they do not; the message names a parameter that only one has.
    """
    (one_part, one_spec), (other_part, other_spec) = one, other
    if one_spec.graphdef == other_spec.graphdef and one_spec.shapes == other_spec.shapes:
        return
    shapes = [
        {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
        for leaves in (jax.tree_util.tree_leaves_with_path(spec.shapes) for spec in (one_spec, other_spec))
    ]
    differing = [name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name)]
    which = f"they differ in {differing[0]}" if differing else "their modules differ"
    if len(differing) > 1:
        which += f" and {len(differing) - 1} more parameters"
    raise ValueError(
        f"objective.parts: {other_part.name!r} ({type(other_part.objective).__name__}) and {one_part.name!r} "
        f"({type(one_part.objective).__name__}) do not train the same model: {which}: mix objectives of one model"
    )
