"""The protocol every pretraining objective follows, and its common case, predicting tokens.

An objective is a frozen dataclass of hyperparameters with two pure methods: ``corrupt`` makes a
:class:`~lmjax.types.Batch` of token rows, ``terms`` turns the model and a batch into named sums of
weighted losses. The training step scales each weight tensor to sum to one over the global batch
before it calls ``terms``, so a term is then a mean, whatever the microbatches or devices. The terms
that balance experts are added in one place, :func:`all_terms`.
"""

import abc
import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.choice import Choice
from lmjax.data.config import DataConfig
from lmjax.field_types import check_literals
from lmjax.losses import linear_cross_entropy
from lmjax.models.config import ModelConfig
from lmjax.models.parameters import Params
from lmjax.models.routing import ROUTING_MEASURES, Routing, by_row, routing_terms
from lmjax.models.transformer import Transformer
from lmjax.schedules.ramp import Ramp, current
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Terms:
    """What an objective computes of a batch.

    Attributes:
      sums: for each name in ``batch.weights``, the scalar sum of weight times loss.
      routing: the expert statistics of the forward passes that are trained, [layers, texts], the texts of a row side by
        side; None for a model without experts.
      carry: what the next step's rows are given as ``batch.carry``, or None.
    """

    sums: dict[str, jax.Array]
    routing: Routing | None
    carry: Any = None

    def __or__(self, sums: dict[str, jax.Array]) -> "Terms":
        """Returns these terms with further sums."""
        return dataclasses.replace(self, sums=self.sums | sums)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(Choice, abc.ABC, home="lmjax.objectives"):
    """What to predict, from what. Subclasses define ``corrupt`` and ``terms``."""

    couples_examples: ClassVar[bool] = False
    """Whether a term depends on several rows at once; such objectives cannot be microbatched."""

    def __post_init__(self):
        """Refuses a value that a field does not list, and a schedule for a field that cannot follow one.

        Subclasses that check fields call it first.
        """
        check_literals(self, "objective.")
        kinds = typing.get_type_hints(type(self)) if self._ramps else {}
        able = [name for name, kind in kinds.items() if Ramp in typing.get_args(kind)]
        for name in self._ramps.keys() - able:
            raise ValueError(
                f"objective.{name}={self._ramps[name]}: {type(self).__name__}'s {name} cannot follow a schedule: give "
                f"a number" + (f" ({', '.join(able)} can)" if able else "")
            )

    measures: ClassVar[frozenset[str]] = frozenset()
    """Terms that are looked at and not trained on: shares, accuracies, margins."""
    text_term: ClassVar[str | None] = None
    """The term that is a cross entropy of ``targets_BP``, tokens of text: evaluations make perplexity and bits per byte
    of it. None: there is no such term."""
    additions: ClassVar[tuple[str, ...]] = ()
    """Names of what ``build`` adds to the parameters of a plain :class:`Transformer`."""

    @property
    def num_members(self) -> int:
        """Texts of an example that a row holds (``data.members``); 1 is a row of ordinary text."""
        return 1

    def row_length(self, sequence_length: int) -> int:
        """Tokens a row must hold for the model to see ``sequence_length`` of them."""
        return sequence_length

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses, before anything is compiled, what this objective cannot do.

        Raises:
          ValueError: naming the recipe's field and the remedy.
        """
        if model.positions == "learned" and sequence_length > model.max_length:
            raise ValueError(
                f"train.sequence_length={sequence_length} is longer than the model's learned positions: "
                f"set model.max_length to at least {sequence_length}, or model.positions to 'rope'"
            )
        if model.recurrent and self.attention != "causal":
            raise ValueError(
                f"model.mixers={model.mixers}: {', '.join(model.recurrent)} read from left to right and "
                f"{type(self).__name__} has a {self.attention} mask: use attention alone, or a causal objective"
            )
        if model.encoder_layers and not self.reads_with_encoder:
            raise ValueError(
                f"model.encoder_layers={model.encoder_layers}: {type(self).__name__} trains a single stack: set it to 0"
            )
        if self.reads_with_encoder and not model.encoder_layers:
            raise ValueError(
                f"model.encoder_layers=0: {type(self).__name__} as configured trains an encoder-decoder: set it to the "
                f"number of the encoder's blocks"
            )

    def check_data(self, data: DataConfig) -> None:
        """Refuses, before anything is prepared, data whose rows this objective cannot read.

        Raises:
          ValueError: naming the recipe's field and the remedy.
        """
        given, name = len(data.members), type(self).__name__
        if given and self.num_members == 1:
            raise ValueError(
                f"data.members={data.members}: {name} as configured reads one text, not several that belong together: "
                f"leave data.members empty and name the field in data.text_field"
            )
        if self.num_members > 1 and given != self.num_members:
            raise ValueError(
                f"data.members={data.members} with data.packing={data.packing!r}: {name} as configured compares the "
                f"{self.num_members} texts of an example: name their {self.num_members} fields in data.members, and "
                f"set data.packing=examples"
            )

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """The module to train."""
        return Transformer(model, rngs=rngs)

    def initial_carry(self, model: ModelConfig, num_rows: int) -> Any:
        """Returns what the first step's batch has as ``carry``: arrays [B, ...], or None if rows leave nothing."""
        return None

    def adopt(self, fresh: Params, saved: Params, *, source: "Objective") -> Params:
        """The parameters of a run that begins with those of another (``train.init_from``).

        Args:
          fresh: the initial parameters of this objective's module.
          saved: those of the other run's.
          source: the other run's objective.

        Returns:
          The other run's transformer, and from ``fresh`` what this objective adds to it; from
          ``saved`` where both are of one class.
        """
        own = saved if type(source) is type(self) else fresh
        added = {name: own[name] for name in self.additions if name in own}
        return {name: part for name, part in saved.items() if name not in source.additions} | added

    @abc.abstractmethod
    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Makes model input, targets and raw weights of token rows; pure and jittable.

        Args:
          key: PRNG key, a function of the run's seed and the step.
          rows: [B, row_length(T)] tokens.
          vocabulary: special ids, static.
        """

    @abc.abstractmethod
    def terms(self, model: Any, batch: Batch, key: jax.Array | None) -> Terms:
        """Runs the model on a batch and sums the weighted losses; pure and jittable.

        Args:
          model: the module of ``build``, or one like it.
          batch: of ``corrupt``, its weights scaled.
          key: PRNG key of dropout; None for none.
        """

    def coefficients(self) -> Mapping[str, float | jax.Array]:
        """Factor of each term in the total loss; for those not named 1, and 0 for ``measures``."""
        return {}

    def total(self, terms: dict[str, jax.Array]) -> jax.Array:
        """The loss to minimise: the terms times their coefficients."""
        coefficients = {**dict.fromkeys(self.measures | ROUTING_MEASURES, 0.0), **self.coefficients()}
        return sum((coefficients.get(name, 1.0) * value for name, value in terms.items()), jnp.zeros(()))

    def metrics(self, terms: dict[str, jax.Array], scored: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """What a training step reports: losses, how many values each is the mean of, what schedules have come to.

        Args:
          terms: the terms.
          scored: for each term that has weights of its own, how many of them are above 0.
        """
        metrics = {name: jnp.asarray(current(ramp)) for name, ramp in self._ramps.items()}
        scored = {name: number for name, number in scored.items() if name not in self.measures}
        for name, value in terms.items():
            if name not in scored:
                metrics[name] = value
                continue
            prefix = f"{name}/" if len(scored) > 1 else ""
            metrics |= {f"{prefix}loss": value, f"{prefix}scored_tokens": scored[name]}
        return metrics | {"loss": self.total(terms)}

    @property
    def _ramps(self) -> dict[str, Ramp]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Ramp)}

    def at(self, step: jax.Array | int) -> "Objective":
        """This objective at a training step (may be traced): what follows a schedule has its value there."""
        return dataclasses.replace(self, **{name: ramp.at(step) for name, ramp in self._ramps.items()})

    def components(self) -> dict[str, "Objective"]:
        """What is validated, each by itself: this objective, named "", or those it is made of, by name."""
        return {"": self}

    def turn(self, step: int) -> tuple[str, int]:
        """The component a step trains, and how many turns it had before; "" where each step trains all of this."""
        return "", step

    def rows_for(self, component: "Objective", rows: Rows) -> Rows:
        """What a component reads of rows of this objective's length."""
        del component
        return rows

    @property
    def row_multiple(self) -> int:
        """What the rows of a microbatch on a device must be a multiple of."""
        return 1

    @property
    def reads_with_encoder(self) -> bool:
        """Whether batches have a stream for an encoder, so that the model must have one."""
        return False

    def for_evaluation(self) -> "Objective":
        """Without what only regularises training (smoothing, auxiliary losses), and past all schedules."""
        return dataclasses.replace(self, **{name: ramp.end for name, ramp in self._ramps.items()})

    @property
    def attention(self) -> Literal["causal", "bidirectional", "prefix"]:
        """How the trained model reads a text it continues: what sampling does with the prompt."""
        return "causal"


def carries_rows(objective: Objective, model: ModelConfig) -> bool:
    """Whether the rows of a step continue those of the step before."""
    return jax.eval_shape(lambda: objective.initial_carry(model, 1)) is not None


def all_terms(
    objective: Objective, model: Any, batch: Batch, key: jax.Array | None
) -> tuple[dict[str, jax.Array], Any]:
    """Returns an objective's terms with those that balance experts, and what it carries to the next step.

    A row counts in the balance terms (:func:`lmjax.models.routing.routing_terms`) as much as in the trained terms: its
    weight is the mean over the trained terms of the sum of the row's weights.
    """
    terms = objective.terms(model, batch, key)
    if terms.routing is None:
        return terms.sums, terms.carry
    trained = [weights for name, weights in batch.weights.items() if name not in objective.measures]
    weights_B = sum((w.reshape(len(w), -1).sum(axis=1) for w in trained), jnp.zeros(())) / len(trained)
    balance = routing_terms(model.config.experts, by_row(terms.routing, len(weights_B)), weights_B)
    return terms.sums | balance, terms.carry


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenObjective(Objective):
    """An objective whose one term, ``loss``, is cross entropy of tokens at the scored positions."""

    text_term: ClassVar[str | None] = "loss"

    label_smoothing: float = 0.0
    """Probability mass taken from the right token and spread over the vocabulary."""
    z_loss: float = 0.0
    """Weight of the squared log-normaliser, which keeps logits from drifting (PaLM, section 5)."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"objective.label_smoothing={self.label_smoothing}: must be at least 0 and below 1")
        if self.z_loss < 0:
            raise ValueError(f"objective.z_loss={self.z_loss}: must not be negative")

    def terms(self, model: Transformer, batch: Batch, key: jax.Array | None) -> Terms:
        """Runs the stack, gathers the scored positions, applies head and loss together."""
        hidden = model(batch.inputs, encoder=batch.encoder, cross_mask=batch.cross_mask, key=key)
        states_BPE = model.head_states(gather_scored(hidden.states_BTD, batch.scored_BP))
        loss = self.token_loss(model, states_BPE, batch.targets_BP, batch.weights["loss"])
        return Terms({"loss": loss}, hidden.routing)

    def token_loss(
        self, model: Transformer, states_BPE: jax.Array, targets_BP: jax.Array, weights_BP: jax.Array
    ) -> jax.Array:
        """:func:`head_loss` with this objective's smoothing."""
        smoothing = {"label_smoothing": self.label_smoothing, "z_loss": self.z_loss}
        return head_loss(model, states_BPE, targets_BP, weights_BP, **smoothing)

    def for_evaluation(self) -> "TokenObjective":
        """Plain cross entropy, so that perplexity and bits per byte are what they say."""
        settled = typing.cast(TokenObjective, super().for_evaluation())
        return dataclasses.replace(settled, label_smoothing=0.0, z_loss=0.0)


def head_loss(
    model: Transformer,
    states_BPE: jax.Array,
    targets_BP: jax.Array,
    weights_BP: jax.Array,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> jax.Array:
    """``sum(weights * cross entropy)`` of what the model's output map makes of its ``head_states``, in chunks."""
    head = model.head()
    return linear_cross_entropy(
        states_BPE,
        head.weight_DV,
        targets_BP,
        weights_BP,
        bias=head.bias_V,
        softcap=head.softcap,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
    )


def gather_scored(hidden_BTD: jax.Array, scored_BP: jax.Array | None) -> jax.Array:
    """Hidden states of the scored positions, [B, P, D]; all of them when ``scored_BP`` is None."""
    if scored_BP is None:
        return hidden_BTD
    return jnp.take_along_axis(hidden_BTD, scored_BP[:, :, None], axis=1)


def token_weights(rows: Rows) -> jax.Array:
    """Loss weight of each token as a target: the data's own, or 1, and 0 on padding (float32 [B, T])."""
    weights_BT = jnp.ones(rows.tokens_BT.shape, jnp.float32) if rows.weights_BT is None else rows.weights_BT
    return weights_BT if rows.segments_BT is None else weights_BT * (rows.segments_BT > 0)


def next_token_targets(rows: Rows) -> tuple[jax.Array, jax.Array | None, jax.Array, jax.Array]:
    """Rows of T + 1 tokens as T inputs and the T tokens that follow them.

    Returns:
      inputs_BT, segments_BT (or None), targets_BT, weights_BT; the weight is 0 where the next token
      belongs to another document.
    """
    weights_BT = token_weights(rows)[:, 1:]
    segments_BT = rows.segments_BT
    if segments_BT is not None:
        weights_BT = weights_BT * (segments_BT[:, 1:] == segments_BT[:, :-1])
        segments_BT = segments_BT[:, :-1]
    return rows.tokens_BT[:, :-1], segments_BT, rows.tokens_BT[:, 1:], weights_BT
