"""The base class of every pretraining objective.

An objective is a frozen dataclass of hyperparameters with two pure methods. ``corrupt`` makes a
:class:`~lmjax.types.Batch` of token rows. ``terms`` runs the model on a batch and returns named sums of
weighted losses. The training step scales each weight tensor to sum to one over the global batch
before it calls ``terms``. A term is then a mean, however the batch is divided into microbatches or over
devices. :func:`all_terms` adds the terms that balance experts, for every objective.
"""

import abc
import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.choice import Choice
from lmjax.data.config import DataConfig
from lmjax.field_types import check_literals
from lmjax.models.config import ModelConfig
from lmjax.models.parameters import Params
from lmjax.models.routing import ROUTING_MEASURES, Routing, by_row, routing_terms
from lmjax.models.transformer import Transformer
from lmjax.schedules.ramp import Ramp, at_end, ramps_of
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traits:
    """What the training loop, sampling and export have to know of an objective.

    Attributes:
      attention: how the trained model reads a text that it continues, and so what sampling does with a prompt.
      reads_with_encoder: whether batches have a stream for an encoder, so that the model must have one.
      num_members: texts of an example that a row holds (``data.members``); 1 for rows of ordinary text.
      encodings: how often the model reads each text of an example; 2 where a text is compared with itself.
      predictions: how many tokens each position predicts, the second and further ones with a layer of their own each.
      couples_examples: whether a term depends on several rows at once, so that a batch cannot be divided into
        microbatches.
      row_multiple: the number of rows of a microbatch on a device must be a multiple of it.
      measures: names of the terms that are reported and not trained on, such as accuracies and margins.
      text_term: the term that is a cross entropy of ``targets_BP``, tokens of text, from which evaluations make
        perplexity and bits per byte; None where there is no such term.
      instead_of_text: what the model is for, if the objective does not train its output layer, which names tokens; None
        if it does.
    """

    attention: Literal["causal", "bidirectional", "prefix"] = "causal"
    reads_with_encoder: bool = False
    num_members: int = 1
    encodings: int = 1
    predictions: int = 1
    couples_examples: bool = False
    row_multiple: int = 1
    measures: frozenset[str] = frozenset()
    text_term: str | None = None
    instead_of_text: str | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Terms:
    """What an objective computes of a batch.

    Attributes:
      sums: for each name in ``batch.weights``, the scalar sum of weight times loss.
      routing: the expert statistics of the forward passes that are trained, [layers, texts], the texts of a row side by
        side; None for a model without experts.
      carry: the ``batch.carry`` of the next step's rows, or None.
    """

    sums: dict[str, jax.Array]
    routing: Routing | None
    carry: Any = None

    def __or__(self, sums: dict[str, jax.Array]) -> "Terms":
        """Returns these terms with further sums."""
        return dataclasses.replace(self, sums=self.sums | sums)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(Choice, abc.ABC, home="lmjax.objectives"):
    """What to predict, and from what. Subclasses define ``corrupt`` and ``terms``, and override what differs."""

    def __post_init__(self):
        """Refuses a value that a field does not list, and a schedule for a field that cannot follow one.

        Subclasses that check fields call it first.
        """
        check_literals(self, "objective.")
        ramps = ramps_of(self)
        kinds = typing.get_type_hints(type(self)) if ramps else {}
        able = [name for name, kind in kinds.items() if Ramp in typing.get_args(kind)]
        for name in ramps.keys() - able:
            raise ValueError(
                f"objective.{name}={ramps[name]}: {type(self).__name__}'s {name} cannot follow a schedule: give "
                f"a number" + (f" ({', '.join(able)} can)" if able else "")
            )

    @property
    def traits(self) -> Traits:
        """What the training loop, sampling and export have to know of this objective."""
        return Traits()

    def row_length(self, sequence_length: int) -> int:
        """Returns how many tokens a row must hold for the model to see ``sequence_length`` of them."""
        return sequence_length

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses, before anything is compiled, a model or a tokenizer that this objective cannot use.

        Raises:
          ValueError: naming the recipe's field and the remedy.
        """
        traits, name = self.traits, type(self).__name__
        if model.positions == "learned" and sequence_length > model.max_length:
            raise ValueError(
                f"train.sequence_length={sequence_length} is longer than the model's learned positions: "
                f"set model.max_length to at least {sequence_length}, or model.positions to 'rope'"
            )
        if model.recurrent and traits.attention != "causal":
            raise ValueError(
                f"model.mixers={model.mixers}: {', '.join(model.recurrent)} read from left to right and "
                f"{name} has a {traits.attention} mask: use attention alone, or a causal objective"
            )
        if model.encoder_layers and not traits.reads_with_encoder:
            raise ValueError(f"model.encoder_layers={model.encoder_layers}: {name} trains a single stack: set it to 0")
        if traits.reads_with_encoder and not model.encoder_layers:
            raise ValueError(
                f"model.encoder_layers=0: {name} as configured trains an encoder-decoder: set it to the "
                f"number of the encoder's blocks"
            )

    def check_data(self, data: DataConfig) -> None:
        """Refuses, before anything is prepared, data whose rows this objective cannot read.

        Raises:
          ValueError: naming the recipe's field and the remedy.
        """
        given, needed, name = len(data.members), self.traits.num_members, type(self).__name__
        if given and needed == 1:
            raise ValueError(
                f"data.members={data.members}: {name} as configured reads one text, not several that belong together: "
                f"leave data.members empty and name the field in data.text_field"
            )
        if needed > 1 and given != needed:
            raise ValueError(
                f"data.members={data.members} with data.packing={data.packing!r}: {name} as configured compares the "
                f"{needed} texts of an example: name their {needed} fields in data.members, and "
                f"set data.packing=examples"
            )

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the module to train: a model, or :class:`~lmjax.models.with_extras.WithExtras` with added modules."""
        return Transformer(model, rngs=rngs)

    def adopt(self, fresh: Params, *, model: Params, saved: Params) -> Params:
        """Returns the extras of a run that begins with the model of another (``train.init_from``).

        Args:
          fresh: the initial extras of this objective's module.
          model: the other run's model.
          saved: the other run's extras if its objective is of this class, else nothing.
        """
        del model
        return {name: saved.get(name, part) for name, part in fresh.items()}

    def initial_carry(self, model: ModelConfig, num_rows: int) -> Any:
        """Returns the ``carry`` of the first step's batch: arrays [B, ...], or None if rows carry nothing over."""
        return None

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
          model: the module that ``build`` returns, or one like it.
          batch: what ``corrupt`` returned, with its weights scaled.
          key: PRNG key of dropout, or None for no dropout.
        """

    def coefficients(self) -> Mapping[str, float | jax.Array]:
        """Returns the factor of each term in the total loss. Terms without one have 1, and measures have 0."""
        return {}

    def total(self, terms: dict[str, jax.Array]) -> jax.Array:
        """Returns the loss to minimise: the sum of the terms times their coefficients."""
        coefficients = {**dict.fromkeys(self.traits.measures | ROUTING_MEASURES, 0.0), **self.coefficients()}
        return sum((coefficients.get(name, 1.0) * value for name, value in terms.items()), jnp.zeros(()))

    def for_evaluation(self) -> "Objective":
        """Returns the objective to evaluate: without what only regularises training, and at the end of all schedules.

        Label smoothing and auxiliary losses are examples of what only regularises training.
        """
        return at_end(self)


def carries_rows(objective: Objective, model: ModelConfig) -> bool:
    """Returns whether the rows of a step continue those of the step before."""
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
    measures = objective.traits.measures
    trained = [weights for name, weights in batch.weights.items() if name not in measures]
    weights_B = sum((w.reshape(len(w), -1).sum(axis=1) for w in trained), jnp.zeros(())) / len(trained)
    balance = routing_terms(model.config.experts, by_row(terms.routing, len(weights_B)), weights_B)
    return terms.sums | balance, terms.carry
