"""Pairs of text, right or wrong, beside masked tokens: BERT's next sentence, ALBERT's sentence order.

Every document is cut in two and written ``<cls> A <sep> B <sep>``, as one document of two segments. Half of the
pairs are wrong: in next-sentence prediction (Devlin et al. 2019, section 3.1) B is another document's second
part, in sentence-order prediction (Lan et al. 2020, section 3.1) A and B have changed places. Then tokens of the
pairs are masked, and the model is asked for both:

    loss = mean over hidden t of  - log p(x_t | masked pair)  +  mean over pairs of  - log p(label | first state)

Axes: Q pairs that a row has room for, S positions of a row of pairs.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from lmjax.corruption import PairRows, mask_tokens, next_sentence_pairs, sentence_numbers, sentence_order_pairs
from lmjax.data.config import DataConfig
from lmjax.losses import pair_loss
from lmjax.models.config import ModelConfig
from lmjax.models.transformer import Transformer
from lmjax.objectives.masked_lm import MaskedLM
from lmjax.objectives.parts.encoder_decoder import longest_row
from lmjax.objectives.parts.objective import Terms, Traits
from lmjax.objectives.parts.origin_weights import moved_weights, place_codes
from lmjax.objectives.parts.scored_positions import scored_positions, scored_targets, slots
from lmjax.objectives.parts.token_objective import gather_scored, token_weights
from lmjax.schedules.ramp import Scalar, current, extremes, highest
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import IGNORE_INDEX, Batch, Rows, make_stream

ADDED = 3
"""The number of tokens that a pair adds to its document."""
SHORTEST_PAIR = 8
"""A row has one slot for a pair in this many tokens. If it holds more pairs, the last ones have no label."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePairs(MaskedLM):
    """Masked LM on pairs of text, and a decision on each pair."""

    task: Literal["next_sentence", "sentence_order"] = "next_sentence"
    """What makes a pair wrong: a second part out of another document of the row, or the two parts exchanged."""
    cut_at: Literal["sentences", "tokens"] = "sentences"
    """Where documents may be cut in two: between sentences, as the tokenizer tells them, or anywhere. One that cannot
    be cut is trained on without a decision."""
    pair_weight: Scalar = 1.0
    """Factor of the pairs' loss."""
    tokens_per_pair: int = 64
    """A row leaves room for the three markers of one pair for every so many tokens. Rows of more documents than that
    lose a few tokens at their end."""

    def __post_init__(self):
        super().__post_init__()
        if min(extremes(self.pair_weight)) < 0:
            raise ValueError(f"objective.pair_weight={self.pair_weight}: must not be negative")
        if self.tokens_per_pair < 1:
            raise ValueError(f"objective.tokens_per_pair={self.tokens_per_pair}: must be at least 1")

    @property
    def traits(self) -> Traits:
        """An encoder; the share of pairs that are decided rightly is reported."""
        return dataclasses.replace(super().traits, measures=frozenset({"accuracy"}))

    def row_length(self, sequence_length: int) -> int:
        """Returns how many tokens fill a row together with the markers of their pairs."""
        return longest_row(sequence_length, self._with_markers)

    def _with_markers(self, length: int) -> int:
        return length + ADDED * max(length // self.tokens_per_pair, 1)

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a model without pair head or segment embeddings, a tokenizer without the markers, and short rows."""
        for name in ("cls", "sep"):
            vocabulary.require(name, needed_by="SentencePairs")
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        for name in ("pooler", "pair_head"):
            if not getattr(model, name):
                raise ValueError(
                    f"model.{name}=False: SentencePairs decides on a pair by the pooled state of its first token: set "
                    f"model.pooler and model.pair_head to True"
                )
        if model.num_types < 2:
            raise ValueError(
                f"model.num_types={model.num_types}: SentencePairs tells the two parts of a pair apart by segment "
                f"embeddings: set it to 2"
            )
        ends_V = vocabulary.sentence_end_V
        if self.cut_at == "sentences" and (ends_V is None or not ends_V.any()):
            raise ValueError(
                "objective.cut_at='sentences': no token of this tokenizer ends a sentence: set it to tokens, or use "
                "another tokenizer"
            )
        if self.row_length(sequence_length) < 2:
            raise ValueError(
                f"train.sequence_length={sequence_length} leaves no two tokens to make a pair of: set it to at least "
                f"{self._with_markers(2)}"
            )

    def check_data(self, data: DataConfig) -> None:
        """Refuses rows of one document, and marks that give the order away."""
        super().check_data(data)
        if self.task == "next_sentence" and data.packing not in ("best_fit", "segments"):
            raise ValueError(
                f"data.packing={data.packing!r}: SentencePairs makes a wrong next sentence out of another document of "
                f"the row: set it to best_fit or segments, or objective.task to sentence_order"
            )
        marks = [name for name in ("add_bos", "add_eos") if getattr(data, name)]
        if self.task == "sentence_order" and marks:
            raise ValueError(
                f"data.{marks[0]}=True marks an end of each document, by which exchanged parts would be told without "
                f"reading them: set it to False"
            )

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Makes pairs of the documents and hides tokens of the pairs."""
        pair_key, mask_key = jax.random.split(key)
        pairs = self._pairs(pair_key, rows, rows.tokens_BT, vocabulary)
        inputs_BT, labels_BT = mask_tokens(
            mask_key,
            pairs.tokens_BS,
            segments=pairs.segments_BS,
            vocab_size=vocabulary.size,
            mask_id=vocabulary.require("mask", needed_by="SentencePairs"),
            special_ids=vocabulary.special_ids,
            rate=current(self.rate),
            mask_fraction=current(self.mask_fraction),
            random_fraction=current(self.random_fraction),
            ignore_index=IGNORE_INDEX,
        )
        length = inputs_BT.shape[1]
        scored_BP = scored_positions(labels_BT != IGNORE_INDEX, slots(length, highest(self.rate)))
        weights_BT = token_weights(Rows(tokens_BT=pairs.tokens_BS, segments_BT=pairs.segments_BS))
        if rows.weights_BT is not None:
            codes = self._pairs(pair_key, rows, place_codes(rows, vocabulary), vocabulary)
            weights_BT = moved_weights(rows, Rows(tokens_BT=codes.tokens_BS, segments_BT=codes.segments_BS), vocabulary)
        fields = scored_targets(scored_BP, labels_BT, weights_BT)
        first_BQ, label_BQ, weights_BQ = self._decisions(pairs)
        return Batch(
            inputs=make_stream(inputs_BT, pairs.segments_BS, "bidirectional", types_BT=pairs.types_BS),
            scored_BP=fields["scored_BP"],
            targets_BP=fields["targets_BP"],
            weights=fields["weights"] | {"pair": weights_BQ, "accuracy": weights_BQ},
            extras={"first": first_BQ, "label": label_BQ},
        )

    def _pairs(self, key: jax.Array, rows: Rows, tokens_BT: jax.Array, vocabulary: Vocabulary) -> PairRows:
        sentences_BT = None
        if self.cut_at == "sentences" and vocabulary.sentence_end_V is not None:
            sentences_BT = sentence_numbers(rows.tokens_BT, vocabulary.sentence_end_V)
        make = next_sentence_pairs if self.task == "next_sentence" else sentence_order_pairs
        return make(
            key,
            tokens_BT,
            segments_BT=rows.segments_BT,
            sentences_BT=sentences_BT,
            cls_id=vocabulary.require("cls", needed_by="SentencePairs"),
            sep_id=vocabulary.require("sep", needed_by="SentencePairs"),
            pad_id=vocabulary.pad_id or 0,
            length=self._with_markers(tokens_BT.shape[1]),
        )

    def _decisions(self, pairs: PairRows) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the first position, the label and the weight of each pair of a row, [B, Q] each."""
        is_pair_BS = pairs.labels_BS != IGNORE_INDEX
        length = is_pair_BS.shape[1]
        first_BQ = scored_positions(is_pair_BS, -(-length // SHORTEST_PAIR))
        is_used_BQ = first_BQ < length
        first_BQ = jnp.minimum(first_BQ, length - 1)
        label_BQ = jnp.where(is_used_BQ, jnp.take_along_axis(pairs.labels_BS, first_BQ, axis=1), 0)
        weights_BQ = is_used_BQ.astype(jnp.float32)
        if self.task == "next_sentence":
            # A lone pair is always right: to be told by its length, and not half of the time.
            weights_BQ *= is_pair_BS.sum(axis=1, keepdims=True) > 1
        return first_BQ, label_BQ, weights_BQ

    def terms(self, model: Transformer, batch: Batch, key: jax.Array | None) -> Terms:
        """Returns ``loss`` of the masked tokens, ``pair`` of the decisions, and ``accuracy`` of the decisions."""
        hidden = model(batch.inputs, key=key)
        states_BPE = model.head_states(gather_scored(hidden.states_BTD, batch.scored_BP))
        loss = self.token_loss(model, states_BPE, batch.targets_BP, batch.weights["loss"])
        logits_BQ2 = model.pair_logits(gather_scored(hidden.states_BTD, batch.extras["first"]))
        label_BQ = batch.extras["label"]
        is_right_BQ = jnp.argmax(logits_BQ2, axis=-1) == label_BQ
        sums = {
            "loss": loss,
            "pair": jnp.sum(batch.weights["pair"] * pair_loss(logits_BQ2, label_BQ)),
            "accuracy": jnp.sum(batch.weights["accuracy"] * is_right_BQ),
        }
        return Terms(sums, hidden.routing)

    def coefficients(self) -> dict[str, float | jax.Array]:
        """Returns the factor of the pairs' loss."""
        return {"pair": current(self.pair_weight)}
