"""Several objectives in one run, on one model: a step each in turn, or each a share of every step's rows.

With weights ``w_i`` of sum W, and ``L_i`` the loss objective i has in a run of its own (a mean over its own scored
tokens), the loss to minimise is

    by="step"   L_i  at step s, i = i(s): of the first n steps, i has n w_i / W, give or take one for each objective
    by="row"    sum over i of  (w_i / W) L_i  at every step, each taken over  w_i / W  of the step's rows

so that in both a weight is an objective's share of the data and of the gradient. Which step or how many rows an
objective has depends on the weights and the step's number alone.

Axes: G groups of rows, P rows of a group, C rows that are chosen of a group.
"""

import bisect
import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.data.config import DataConfig
from lmjax.data.rows.mixture import Interleave
from lmjax.models.config import ModelConfig
from lmjax.models.layers import split_key
from lmjax.models.parameters import ModuleSpec, Params, module_spec
from lmjax.objectives.parts.objective import Objective, Terms, all_terms, carries_rows
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
    """The batches of the objectives, without their weights, which are here under ``<name>/<term>``.

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
        if self.by not in ("step", "row"):
            raise ValueError(f"objective.by={self.by!r}: use 'step' or 'row'")

    @property
    def shares(self) -> tuple[Fraction, ...]:
        """Each objective's weight as an exact share of 1."""
        weights = [Fraction(part.weight).limit_denominator(10**9) for part in self.parts]
        return tuple(weight / sum(weights) for weight in weights)

    @property
    def row_multiple(self) -> int:
        """By row: the fewest rows of which every objective has a whole number."""
        return math.lcm(*(share.denominator for share in self.shares)) if self.by == "row" else 1

    def components(self) -> dict[str, Objective]:
        """The objectives by name."""
        return {part.name: part.objective for part in self.parts}

    def turn(self, step: int) -> tuple[str, int]:
        """By step: the objective of a step, as evenly interleaved as the weights allow."""
        if self.by == "row":
            return super().turn(step)
        index, number = Interleave(self.shares)(step)
        return self.parts[index].name, number

    def row_length(self, sequence_length: int) -> int:
        """The most that an objective asks for."""
        return max(part.objective.row_length(sequence_length) for part in self.parts)

    def rows_for(self, component: Objective, rows: Rows) -> Rows:
        """As much of the beginning of each row as the component needs."""
        length = rows.tokens_BT.shape[1]
        sequence_length = 1 + bisect.bisect_left(range(1, 2**30), length, key=self.row_length)
        own_length = component.row_length(sequence_length)
        return jax.tree.map(lambda array_BT: array_BT[:, :own_length], rows)

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses what any of the objectives refuses, and objectives that cannot share a model or a batch."""
        row_length = self.row_length(sequence_length)
        for part in self.parts:
            with _naming(part):
                part.objective.check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
            if part.objective.num_members > 1 and part.objective.row_length(sequence_length) != row_length:
                raise ValueError(
                    f"objective.parts: {part.name!r} ({type(part.objective).__name__}) reads several texts a row and "
                    f"cannot take the beginning of longer rows, which another objective asks for: train it by itself"
                )
            if carries_rows(part.objective, model):
                raise ValueError(
                    f"objective.parts: {part.name!r} ({type(part.objective).__name__}) carries a memory from each step "
                    f"to the next, and here the next is another's: train it by itself"
                )
            if self.by == "row" and part.objective.couples_examples:
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
            with _naming(part):
                part.objective.check_data(data)

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """The model, which is the same for every objective."""
        return self._first.build(model, rngs=rngs)

    def adopt(self, fresh: Params, saved: Params, *, source: Objective) -> Params:
        """As the first objective does."""
        return self._first.adopt(fresh, saved, source=source._first if isinstance(source, Mixture) else source)

    def divide(self, key: jax.Array, rows: Rows) -> dict[str, Rows]:
        """By row: the rows of each objective.

        Of every :attr:`row_multiple` rows in a row, each objective has its number, drawn anew from
        ``key``: a fixed pattern could fall in step with that of a mixture of data. Neighbours are on one
        device and in each microbatch alike, so nothing is moved.

        Args:
          key: PRNG key.
          rows: [B, ...], B a multiple of :attr:`row_multiple`.
        """
        period = self.row_multiple
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
        """By row: divides the rows and corrupts each objective's share.

        Raises:
          TypeError: by step there is no batch of the whole; take the objective of the step's :meth:`turn`.
        """
        if self.by == "step":
            raise TypeError("a mixture by step trains one of its components() at a time: see turn(step)")
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
        """By row: every objective's terms on its rows; the model runs once for each."""
        assert isinstance(batch, MixedBatch)
        sums: dict[str, jax.Array] = {}
        for part, part_key in zip(self.parts, split_key(key, len(self.parts)), strict=True):
            own = dataclasses.replace(batch.parts[part.name], weights=_own(part, batch.weights))
            # The balance terms of each part are among its own: its rows are not those of the others.
            own_terms, _ = all_terms(part.objective, model, own, part_key)
            sums |= {f"{part.name}/{term}": value for term, value in own_terms.items()}
        return Terms(sums, routing=None)

    def total(self, terms: dict[str, jax.Array]) -> jax.Array:
        """The mean of the objectives' losses by weight."""
        losses = [part.objective.total(_own(part, terms)) for part in self.parts]
        return sum((float(s) * loss for s, loss in zip(self.shares, losses, strict=True)), jnp.zeros(()))

    def metrics(self, terms: dict[str, jax.Array], scored: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """What each objective would report, under its name, and the loss of all."""
        metrics = {"loss": self.total(terms)}
        for part in self.parts:
            own = part.objective.metrics(_own(part, terms), _own(part, scored))
            metrics |= {f"{part.name}/{name}": value for name, value in own.items()}
        return metrics

    def at(self, step: jax.Array | int) -> "Mixture":
        """With each objective at the step."""
        return self._each(lambda objective: objective.at(step))

    def for_evaluation(self) -> "Mixture":
        """With each objective as it is evaluated."""
        return self._each(lambda objective: objective.for_evaluation())

    def _each(self, change: Callable[[Objective], Objective]) -> "Mixture":
        parts = tuple(dataclasses.replace(part, objective=change(part.objective)) for part in self.parts)
        return dataclasses.replace(self, parts=parts)

    @property
    def _first(self) -> Objective:
        return self.parts[0].objective

    @property
    def additions(self) -> tuple[str, ...]:  # type: ignore[override]
        """As the first objective's, whose module it is."""
        return self._first.additions

    @property
    def num_members(self) -> int:
        """As the first objective, and as all: the data are the same."""
        return self._first.num_members

    @property
    def reads_with_encoder(self) -> bool:
        """As the first objective, and as all: the model is the same."""
        return self._first.reads_with_encoder

    @property
    def attention(self) -> Literal["causal", "bidirectional", "prefix"]:
        """As the first objective: the model is sampled as that one is."""
        return self._first.attention


@contextlib.contextmanager
def _naming(part: Part) -> Iterator[None]:
    """Says which objective refuses something."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{part.name!r} of the mixture: {error}") from None


def _own(part: Part, values: dict[str, Any]) -> dict[str, Any]:
    """What is under the part's name, without it."""
    prefix = f"{part.name}/"
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _spec(objective: Objective, model: ModelConfig) -> ModuleSpec:
    return module_spec(lambda key: objective.build(model, rngs=nnx.Rngs(params=key)))


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
