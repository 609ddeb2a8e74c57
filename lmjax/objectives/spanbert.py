"""SpanBERT: runs of whole words hidden together, and their tokens asked of the run's borders too (Joshi et al. 2020).

Lengths in words are geometric, ``p (1 - p)^(n - 1)`` on 1 .. 10 with p = 0.2 (3.8 words on average),
and spans are placed until the budget of 15% is met (section 3.1). A span is masked, replaced or kept as a whole.
Two terms, of which the second, the span-boundary objective (section 3.2), is optional:

    loss         - mean over tokens i of spans (s .. e) of  log p(x_i | h_i)
    boundary     - mean over tokens i of spans (s .. e) of  log p(x_i | f(h_(s-1), h_(e+1), p_(i-s+1)))

with f two layers ``LayerNorm(GeLU(W x))``, p learned vectors and the head of the first term in both.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.corruption import mask_spans
from lmjax.models.config import ModelConfig
from lmjax.models.layers import Embedding, Norm, Projection
from lmjax.models.token_stack import embedding_std
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import WithExtras
from lmjax.objectives.masked_lm import MaskedLM
from lmjax.objectives.parts.objective import Terms
from lmjax.objectives.parts.scored_positions import scored_positions, scored_targets
from lmjax.objectives.parts.token_objective import gather_scored, token_weights
from lmjax.objectives.whole_word import check_word_starts, word_slots
from lmjax.schedules.ramp import Scalar, current, extremes, highest
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import IGNORE_INDEX, Batch, Rows, make_stream

PLACES = 20
"""Tokens of a span, counted from its first, that the boundary term asks for; their places have vectors."""
PLACE_WIDTH = 200
"""Width of a place's vector (both as in the authors' code)."""


class SpanBoundary(nnx.Module):
    """Layers that predict a token of a span from the states at the span's borders."""

    def __init__(self, config: ModelConfig, *, head_width: int, rngs: nnx.Rngs):
        """Builds the place vectors and the two layers, the second as wide as the head's input."""
        std = embedding_std(config)
        self.places = Embedding(PLACES, PLACE_WIDTH, axes=("places", "place"), std=std, rngs=rngs)

        def layer(axes: tuple[str, str], width: int, out_width: int) -> tuple[Projection, Norm]:
            into, out = {axes[0]: width}, {axes[1]: out_width}
            return (
                Projection(into, out, std=config.matrix_std, bias=True, dtype=config.dtype, rngs=rngs),
                Norm(out_width, kind="layernorm", epsilon=config.norm_epsilon, bias=True),
            )

        borders_width = 2 * config.width + PLACE_WIDTH
        self.first, self.first_norm = layer(("borders", "embed"), borders_width, config.width)
        self.second, self.second_norm = layer(("embed", "embedding"), config.width, head_width)
        self.dtype, self.scale = config.dtype, config.logit_scale

    def __call__(self, left_BPD: jax.Array, right_BPD: jax.Array, place_BP: jax.Array) -> jax.Array:
        """Returns states [B, P, E] for the head; ``place_BP`` counts the tokens of a span from 0."""
        x = jnp.concatenate([left_BPD, right_BPD, self.places(place_BP, self.dtype)], axis=-1)
        for project, norm in ((self.first, self.first_norm), (self.second, self.second_norm)):
            x = norm(jax.nn.gelu(project(x), approximate=False))
        return x * self.scale


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanMaskedLM(MaskedLM):
    """Masked LM on spans of words; ``rate`` is the share of a row's words to hide."""

    length_p: float = 0.2
    """Parameter of the geometric distribution of a span's length in words."""
    max_words: int = 10
    """Longest span, words."""
    boundary_weight: Scalar = 0.0
    """Factor of the span-boundary term; the paper's is 1. At 0 there is none, nor its layers."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.length_p < 1:
            raise ValueError(f"objective.length_p={self.length_p}: must lie between 0 and 1")
        if self.max_words < 1:
            raise ValueError(f"objective.max_words={self.max_words}: must be at least 1")
        if min(extremes(self.boundary_weight)) < 0:
            raise ValueError(f"objective.boundary_weight={self.boundary_weight}: must not be negative")

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a tokenizer without a mask token, or one that cannot tell where words start."""
        vocabulary.require("mask", needed_by="SpanMaskedLM")
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        check_word_starts(vocabulary, needed_by="SpanMaskedLM")

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the encoder, with the layers ``boundary`` as an extra where they are trained."""
        encoder = Transformer(model, rngs=rngs)
        if highest(self.boundary_weight) == 0:
            return encoder
        head_width = encoder.head().weight_DV.shape[0]
        return WithExtras(encoder, boundary=SpanBoundary(model, head_width=head_width, rngs=rngs))

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Hides spans and lists the positions of their tokens."""
        masked = mask_spans(
            key,
            rows.tokens_BT,
            segments_BT=rows.segments_BT,
            vocab_size=vocabulary.size,
            mask_id=vocabulary.require("mask", needed_by="SpanMaskedLM"),
            special_ids=vocabulary.special_ids,
            word_start_V=vocabulary.word_start_V,
            word_end_V=vocabulary.word_end_V,
            rate=current(self.rate),
            length_p=self.length_p,
            max_words=self.max_words,
            mask_fraction=current(self.mask_fraction),
            random_fraction=current(self.random_fraction),
            ignore_index=IGNORE_INDEX,
        )
        num_slots = word_slots(rows.tokens_BT.shape[1], highest(self.rate))
        scored_BP = scored_positions(masked.labels_BT != IGNORE_INDEX, num_slots)
        batch = Batch(
            inputs=make_stream(masked.inputs_BT, rows.segments_BT, "bidirectional"),
            **scored_targets(scored_BP, masked.labels_BT, token_weights(rows)),
        )
        if highest(self.boundary_weight) == 0:
            return batch

        def at(values_BT: jax.Array, index_BP: jax.Array) -> jax.Array:
            return jnp.take_along_axis(values_BT, index_BP, axis=1)

        assert batch.scored_BP is not None
        left_BP, right_BP = (at(border_BT, batch.scored_BP) for border_BT in (masked.left_BT, masked.right_BT))
        # A span at its document's edge has no token outside of it there: the border is of the span itself.
        is_outside_BP = (at(masked.span_BT, left_BP) == 0) & (at(masked.span_BT, right_BP) == 0)
        place_BP = batch.scored_BP - left_BP - 1
        boundary_BP = batch.weights["loss"] * (is_outside_BP & (place_BP < PLACES))
        return dataclasses.replace(
            batch,
            weights=batch.weights | {"boundary": boundary_BP},
            extras={"left": left_BP, "right": right_BP, "place": jnp.clip(place_BP, 0, PLACES - 1)},
        )

    def terms(self, model: Any, batch: Batch, key: jax.Array | None) -> Terms:
        """Returns the losses of the spans' tokens from their own states and, if it counts, from those around it."""
        if highest(self.boundary_weight) == 0:
            return super().terms(model, batch, key)
        encoder, boundary = model.model, model.extras["boundary"]
        hidden = encoder(batch.inputs, key=key)
        left_BPD, right_BPD = (gather_scored(hidden.states_BTD, batch.extras[side]) for side in ("left", "right"))
        states = {
            "loss": encoder.head_states(gather_scored(hidden.states_BTD, batch.scored_BP)),
            "boundary": boundary(left_BPD, right_BPD, batch.extras["place"]),
        }
        losses = {
            name: self.token_loss(encoder, states_BPE, batch.targets_BP, batch.weights[name])
            for name, states_BPE in states.items()
        }
        return Terms(losses, hidden.routing)

    def coefficients(self) -> dict[str, float | jax.Array]:
        """Returns the factor of the boundary term."""
        return {"boundary": current(self.boundary_weight)} if highest(self.boundary_weight) else {}
