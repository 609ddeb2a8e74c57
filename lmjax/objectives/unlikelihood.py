"""Unlikelihood training: make the right token likely and wrong ones unlikely (Welleck et al. 2020, section 5.1).

    loss = mean over t of  - log p(x_t | x_<t)  - alpha  sum over c in C_t of  log(1 - p(c | x_<t))

The negative candidates C_t are the tokens of the context, ``{x_1, ..., x_(t-1)}`` without ``x_t``, each counted
once; or given: the token that stands in the place of ``x_t`` in a corrupted copy of the row, where one does; or
both. The corrupted copy can also be kept less likely as a whole, by a margin (Collobert and Weston 2008):

    margin_weight  mean over documents of  max(0, margin + nats(x) - nats(corrupted x)),   nats a mean over tokens.

Everything is within each packed document.

Axes: K candidates, S positions of a row with one more token.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from lmjax.corruption import corrupt_negatives, previous_candidates
from lmjax.layout import documents
from lmjax.losses import corrupted_margin, cross_entropy, linear_token_losses, unlikelihood
from lmjax.models.config import ModelConfig
from lmjax.models.head import gathered_head
from lmjax.models.layers import split_key
from lmjax.models.transformer import Transformer
from lmjax.objectives.parts.logit_chunks import chunk_length, sum_over_chunks
from lmjax.objectives.parts.objective import Objective, Terms, Traits
from lmjax.objectives.parts.token_objective import next_token_targets
from lmjax.schedules.ramp import Scalar, current, extremes, highest
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream

Candidates = Literal["context", "given", "both"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnlikelihoodLM(Objective):
    """Next-token prediction and, as further terms, the unlikelihood of wrong tokens and the margin over wrong text."""

    alpha: Scalar = 1.0
    """Weight of the unlikelihood term."""
    candidates: Candidates = "context"
    """Tokens to push down: those already used, those given by a corrupted copy of the row, or both."""
    window: int | None = None
    """Tokens to look back for candidates; the whole context when unset, at T ids a position."""
    margin_weight: Scalar = 0.0
    """Weight of the margin between the text and its corrupted copy; 0 leaves the term and its pass out."""
    margin: Scalar = 1.0
    """Nats a token by which the corrupted copy is to be less likely."""
    corruption_rate: Scalar = 0.15
    """Share of tokens that are another one in the corrupted copy."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("alpha", "margin_weight", "margin"):
            if min(extremes(getattr(self, name))) < 0:
                raise ValueError(f"objective.{name}={getattr(self, name)}: must not be negative")
        if self.window is not None and self.window < 1:
            raise ValueError(f"objective.window={self.window}: must be at least 1, or None for the whole context")
        if self.window is not None and self.candidates == "given":
            raise ValueError(
                f"objective.window={self.window}: given candidates are not looked for in the context: leave it unset, "
                f"or set objective.candidates to 'both'"
            )
        if not all(0 < rate < 1 for rate in extremes(self.corruption_rate)):
            raise ValueError(f"objective.corruption_rate={self.corruption_rate}: must lie between 0 and 1")

    @property
    def traits(self) -> Traits:
        """The term ``loss`` is of tokens of text."""
        return Traits(text_term="loss")

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a tokenizer without two ordinary tokens where one is to stand in another's place."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        if self.has_corrupted and vocabulary.size - len(vocabulary.special_ids) < 2:
            raise ValueError(
                f"objective.candidates={self.candidates!r} with a tokenizer of {vocabulary.size} ids, all but one of "
                f"them special: corruption needs two ordinary ids: use another tokenizer"
            )

    @property
    def has_corrupted(self) -> bool:
        """Whether a corrupted copy of each row is needed."""
        return self.candidates != "context" or highest(self.margin_weight) > 0

    def row_length(self, sequence_length: int) -> int:
        """Returns T + 1: T inputs and the token after the last of them."""
        return sequence_length + 1

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Shifts the rows and corrupts a copy. ``terms`` finds the candidates, for a microbatch at a time."""
        inputs_BT, segments_BT, targets_BT, weights_BT = next_token_targets(rows)
        weights = {"loss": weights_BT, "unlikelihood": weights_BT}
        extras = {}
        if self.has_corrupted:
            corrupted_BS, _ = corrupt_negatives(
                key,
                rows.tokens_BT,
                vocab_size=vocabulary.size,
                special_ids=vocabulary.special_ids,
                rate=current(self.corruption_rate),
                segments_BT=rows.segments_BT,
            )
            extras = {"corrupted": corrupted_BS[:, :-1], "corrupted_targets": corrupted_BS[:, 1:]}
        if highest(self.margin_weight) > 0:
            counts_BT = (weights_BT > 0) & (extras["corrupted_targets"] != targets_BT)
            # A document that came through unharmed has nothing to be told from.
            is_harmed_BT = document_sums(counts_BT.astype(jnp.float32), segments_BT) > 0
            weights["margin"] = is_harmed_BT.astype(jnp.float32)
        return Batch(
            inputs=make_stream(inputs_BT, segments_BT, "causal"),
            targets_BP=targets_BT,
            weights=weights,
            extras=extras,
        )

    def terms(self, model: Transformer, batch: Batch, key: jax.Array | None) -> Terms:
        """Returns both terms from the same logits, which exist for a chunk of positions at a time, and the margin."""
        key, corrupted_key = split_key(key, 2)
        hidden = model(batch.inputs, key=key)
        hidden_BTD = hidden.states_BTD
        head = gathered_head(model)

        def chunk(hidden_BCD, targets_BC, candidates_BCK, likely_BC, unlikely_BC):
            logits_BCV = head(hidden_BCD)
            return (
                jnp.sum(likely_BC * cross_entropy(logits_BCV, targets_BC)),
                jnp.sum(unlikely_BC * unlikelihood(logits_BCV, candidates_BCK)),
            )

        likely, unlikely = sum_over_chunks(
            chunk,
            chunk_length(batch.targets_BP.shape[0], model.config.vocab_size),
            hidden_BTD,
            batch.targets_BP,
            self.negative_candidates(batch),
            batch.weights["loss"],
            batch.weights["unlikelihood"],
        )
        sums = {"loss": likely, "unlikelihood": unlikely}
        if "margin" in batch.weights:
            sums["margin"] = self._margin(model, batch, hidden_BTD, corrupted_key)
        return Terms(sums, hidden.routing)

    def negative_candidates(self, batch: Batch) -> jax.Array:
        """Returns the tokens each position must not predict, int32 [B, T, K], negative where there are fewer.

        The context of position t is its inputs up to and with t: position 0 already has one token to
        avoid.
        """
        found = []
        if self.candidates != "given":
            found.append(self._context(batch))
        if self.candidates != "context":
            given_BT = batch.extras["corrupted_targets"]
            found.append(jnp.where(given_BT != batch.targets_BP, given_BT, -1)[:, :, None])
        return jnp.concatenate(found, axis=-1)

    def _context(self, batch: Batch) -> jax.Array:
        inputs_BT, targets_BT = batch.inputs.tokens_BT, batch.targets_BP
        # Found among the inputs and the last target, whose document goes on by the interval mask.
        documents_BT = _documents(batch)
        tokens_BS = jnp.concatenate([inputs_BT, targets_BT[:, -1:]], axis=1)
        documents_BS = jnp.concatenate([documents_BT, documents_BT[:, -1:]], axis=1)
        window = min(self.window or inputs_BT.shape[1], inputs_BT.shape[1])
        return previous_candidates(tokens_BS, window=window, segments_BT=documents_BS)[:, 1:]

    def _margin(self, model: Transformer, batch: Batch, hidden_BTD: jax.Array, key: jax.Array | None) -> jax.Array:
        """Returns the sum over documents of the hinge, which stands at the first position, times its weight."""
        head = model.head()
        # As numbers of 0 and 1: the weights themselves were scaled to sum to one over the batch.
        counts_BT = (batch.weights["loss"] > 0).astype(jnp.float32)
        documents_BT = _documents(batch)
        length_BT = jnp.maximum(document_sums(counts_BT, documents_BT), 1.0)

        def nats(hidden_BTD: jax.Array, targets_BT: jax.Array) -> jax.Array:
            states_BTE = model.head_states(hidden_BTD)
            losses_BT = linear_token_losses(
                states_BTE, head.weight_DV, targets_BT, bias=head.bias_V, softcap=head.softcap
            )
            return document_sums(counts_BT * losses_BT, documents_BT) / length_BT

        corrupted = dataclasses.replace(batch.inputs, tokens_BT=batch.extras["corrupted"])
        hinge_BT = corrupted_margin(
            nats(hidden_BTD, batch.targets_BP),
            nats(model(corrupted, key=key).states_BTD, batch.extras["corrupted_targets"]),
            margin=current(self.margin),
        )
        return jnp.sum(batch.weights["margin"] * hinge_BT)

    def coefficients(self) -> dict[str, float | jax.Array]:
        """Returns alpha and the margin's weight."""
        return {"unlikelihood": current(self.alpha), "margin": current(self.margin_weight)}


def _documents(batch: Batch) -> jax.Array:
    """Returns a number above 0 for the document of each position, made of the interval mask."""
    return jnp.broadcast_to(batch.inputs.mask.start_BT, batch.inputs.tokens_BT.shape) + 1


def document_sums(values_BT: jax.Array, segments_BT: jax.Array | None) -> jax.Array:
    """Returns the sum over each document at its first position, and 0 elsewhere, float32 [B, T]."""
    start_BT = documents(segments_BT, values_BT.shape).start_BT
    return jax.vmap(lambda values, at: jnp.zeros_like(values).at[at].add(values))(values_BT, start_BT)
