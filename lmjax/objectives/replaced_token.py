"""Replaced-token detection: ELECTRA (Clark et al. 2020, sections 2 and 3.2).

A small generator is trained as a masked language model; its samples take the places of the masked
tokens; the discriminator says of *every* token whether it is the original:

    loss = mean over masked of - log p_G(x_i | masked x)  +  50  mean over all of BCE(D(replaced x)_i, replaced_i)

Nothing flows back through the sampling. A sample that happens to be the original is original.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.corruption import mask_tokens, replace_tokens
from lmjax.losses import replaced_token_loss
from lmjax.models.config import ModelConfig
from lmjax.models.layers import ACTIVATIONS, Projection, split_key
from lmjax.models.routing import joined
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import WithExtras, extra_of, with_extras
from lmjax.objectives.parts.objective import Objective, Terms, Traits
from lmjax.objectives.parts.scored_positions import scored_positions, scored_targets, slots
from lmjax.objectives.parts.token_objective import gather_scored, head_loss, token_weights
from lmjax.schedules.ramp import Scalar, current, extremes, highest
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import IGNORE_INDEX, Batch, Rows, make_stream

SAMPLED_SLOTS = 8
"""The number of slots of a row whose logits exist at the same time while replacements are sampled."""

EMBEDDINGS = ("embedding", "position_embedding", "type_embedding", "embedding_norm")
"""The parts of a stack that make one vector of a token, its position and its segment."""


def discriminator_and_generator(
    config: ModelConfig, generator_config: ModelConfig | None, *, share_embeddings: bool, rngs: nnx.Rngs
) -> nnx.Module:
    """Returns a discriminator, which is what is kept after training, with its classifier and a generator as extras.

    Args:
      config: of the discriminator. With ``head_transform`` its classifier has a layer before the last,
        ``classifier_dense``, as those the authors released.
      generator_config: of the generator, or None for a discriminator without one.
      share_embeddings: whether the generator has no embeddings of its own, see :func:`whole_generator`.
      rngs: one key, under ``params``.
    """
    discriminator = Transformer(dataclasses.replace(config, head_bias=False), rngs=rngs)
    if config.head_transform:
        # The discriminator names no token.
        del discriminator.head_dense, discriminator.head_norm
    generator = None if generator_config is None else Transformer(generator_config, rngs=rngs)
    if share_embeddings:
        for name in EMBEDDINGS:
            delattr(generator, name)
    dense = partial(Projection, {"embed": config.width}, std=config.init_std, bias=True, dtype=config.dtype, rngs=rngs)
    classifier = dense({"replaced": 1})
    classifier_dense = dense({"judged": config.width}) if config.head_transform else None
    return with_extras(discriminator, generator=generator, classifier=classifier, classifier_dense=classifier_dense)


def whole_generator(model: WithExtras, *, share_embeddings: bool) -> Transformer:
    """Returns the generator. One that shares the discriminator's embeddings has them in place, in this trace."""
    generator: Transformer = model.extras["generator"]
    if not share_embeddings:
        return generator
    generator = nnx.clone(generator)
    # The discriminator's own head, which names no token, leaves the generator's the table that it was given.
    for name in (*EMBEDDINGS, "head_table_VD"):
        setattr(generator, name, nnx.data(getattr(model.model, name)))
    return generator


def replaced_logits(model: WithExtras, hidden_BTD: jax.Array) -> jax.Array:
    """Returns the discriminator's float32 score that each token was replaced, [B, T]."""
    dense = extra_of(model, "classifier_dense")
    if dense is not None:
        hidden_BTD = ACTIVATIONS[model.config.activation](dense(hidden_BTD))
    return model.extras["classifier"](hidden_BTD)[..., 0].astype(jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplacedToken(Objective):
    """ELECTRA; `model` describes the discriminator. `replaced` is the share of tokens that are not the original: a
    discriminator that has learnt nothing loses the entropy of that share."""

    rate: Scalar = 0.15
    """Share of tokens the generator is to fill in."""
    generator_ratio: float = 0.25
    """Size of the generator: its width, heads and feed-forward width over the discriminator's."""
    share_embeddings: bool = True
    """Whether the generator uses the discriminator's embeddings, in their own width, which a matrix then maps to the
    generator's and a dense layer before its head back."""
    discriminator_weight: Scalar = 50.0
    """Factor of the discriminator's loss."""
    temperature: Scalar = 1.0
    """Temperature of the distribution from which replacements are sampled."""

    def __post_init__(self):
        super().__post_init__()
        if not all(0 < rate < 1 for rate in extremes(self.rate)):
            raise ValueError(f"objective.rate={self.rate}: must lie between 0 and 1")
        if not 0 < self.generator_ratio <= 1:
            raise ValueError(f"objective.generator_ratio={self.generator_ratio}: must be above 0 and at most 1")
        if min(extremes(self.discriminator_weight)) < 0:
            raise ValueError(f"objective.discriminator_weight={self.discriminator_weight}: must not be negative")
        if min(extremes(self.temperature)) <= 0:
            raise ValueError(f"objective.temperature={self.temperature}: must be above 0")

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a tokenizer without a mask, an untied head, and a ratio that cuts through a head."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        vocabulary.require("mask", needed_by="ReplacedToken")
        if not model.tie_embeddings:
            raise ValueError(
                "model.tie_embeddings=False: ReplacedToken's discriminator has no token head, and its generator's is "
                "its embedding: set it to True"
            )
        self.generator_config(model)

    def generator_config(self, model: ModelConfig) -> ModelConfig:
        """Returns the discriminator's configuration with scaled widths and heads, and the same depth and embeddings.

        Raises:
          ValueError: a scaled size is not whole.
        """
        sizes = {
            "num_heads": model.num_heads,
            "num_kv_heads": model.kv_heads,
            "width": model.width,
            "feedforward_width": model.hidden_width,
        }
        scaled: dict[str, Any] = {}
        for field, size in sizes.items():
            scaled[field] = round(size * self.generator_ratio)
            if scaled[field] < 1 or abs(scaled[field] - size * self.generator_ratio) > 1e-3 * size:
                raise ValueError(
                    f"objective.generator_ratio={self.generator_ratio} of model.{field}={size} is not a whole number: "
                    f"choose a ratio that divides it"
                )
        if self.share_embeddings and scaled["width"] != model.table_width:
            scaled |= {"embedding_width": model.table_width, "head_transform": True}
        return dataclasses.replace(model, head_width=model.key_width, **scaled)

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the discriminator, with ``generator``, ``classifier`` and ``classifier_dense`` as extras."""
        generator = self.generator_config(model)
        return discriminator_and_generator(model, generator, share_embeddings=self.share_embeddings, rngs=rngs)

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Masks tokens for the generator; what the discriminator reads is sampled in ``terms``.

        Each row takes its own seed along, so the samples do not depend on the cut into microbatches, and
        a validation repeats them.
        """
        mask_key, sample_key = jax.random.split(key)
        num_rows, length = rows.tokens_BT.shape
        inputs_BT, labels_BT = mask_tokens(
            mask_key,
            rows.tokens_BT,
            segments=rows.segments_BT,
            vocab_size=vocabulary.size,
            mask_id=vocabulary.require("mask", needed_by="ReplacedToken"),
            special_ids=vocabulary.special_ids,
            rate=current(self.rate),
            mask_fraction=1.0,
            random_fraction=0.0,
            ignore_index=IGNORE_INDEX,
        )
        weights_BT = token_weights(rows)
        scored_BP = scored_positions(labels_BT != IGNORE_INDEX, slots(length, highest(self.rate)))
        fields = scored_targets(scored_BP, labels_BT, weights_BT)
        return Batch(
            inputs=make_stream(inputs_BT, rows.segments_BT, "bidirectional"),
            scored_BP=fields["scored_BP"],
            targets_BP=fields["targets_BP"],
            weights={"generator": fields["weights"]["loss"], "discriminator": weights_BT, "replaced": weights_BT},
            extras={
                "original": rows.tokens_BT,
                "is_masked": (scored_BP < length).astype(jnp.int32),
                "seed": jax.random.bits(sample_key, (num_rows,), jnp.uint32),
            },
        )

    def terms(self, model: WithExtras, batch: Batch, key: jax.Array | None) -> Terms:
        """Returns the generator's loss at masked positions, the discriminator's at all, and the share replaced."""
        generator_key, discriminator_key = split_key(key, 2)
        generator = whole_generator(model, share_embeddings=self.share_embeddings)
        generated = generator(batch.inputs, key=generator_key)
        hidden_BPD = gather_scored(generated.states_BTD, batch.scored_BP)
        states_BPE = generator.head_states(hidden_BPD)
        generator_loss = head_loss(generator, states_BPE, batch.targets_BP, batch.weights["generator"])
        replaced_BT, is_replaced_BT = self.sample(generator, hidden_BPD, batch)
        stream = dataclasses.replace(batch.inputs, tokens_BT=replaced_BT)
        judged = model.model(stream, key=discriminator_key)
        losses_BT = replaced_token_loss(replaced_logits(model, judged.states_BTD), is_replaced_BT)
        sums = {
            "generator": generator_loss,
            "discriminator": jnp.sum(batch.weights["discriminator"] * losses_BT),
            "replaced": jnp.sum(batch.weights["replaced"] * is_replaced_BT),
        }
        return Terms(sums, joined([generated.routing, judged.routing]))

    def sample(self, generator: Transformer, hidden_BPD: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Returns what the discriminator reads, int32 [B, T], and where it is not the original, bool [B, T].

        The logits exist for a chunk of slots at a time.
        """
        assert batch.scored_BP is not None
        scored_BP, num_slots = batch.scored_BP, batch.scored_BP.shape[1]
        # Not made of the batch size: a row's samples are the same in any microbatch.
        length = math.gcd(num_slots, SAMPLED_SLOTS)

        def place(tokens_BT: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
            def cut(array: jax.Array) -> jax.Array:
                return jax.lax.dynamic_slice_in_dim(array, start, length, axis=1)

            logits_BCV = jax.lax.stop_gradient(generator.logits(cut(hidden_BPD)))

            def of_row(seed, tokens_T, scored_C, is_masked_C, logits_CV):
                placed_1T, _ = replace_tokens(
                    jax.random.fold_in(jax.random.key(seed), start),
                    tokens_T[None],
                    scored_C[None],
                    logits_CV[None],
                    filled_BP=is_masked_C[None] > 0,
                    temperature=current(self.temperature),
                )
                return placed_1T[0]

            chunk = (cut(scored_BP), cut(batch.extras["is_masked"]), logits_BCV)
            return jax.vmap(of_row)(batch.extras["seed"], tokens_BT, *chunk), None

        original_BT = batch.extras["original"]
        replaced_BT, _ = jax.lax.scan(place, original_BT, jnp.arange(0, num_slots, length))
        return replaced_BT, replaced_BT != original_BT

    def coefficients(self) -> dict[str, float | jax.Array]:
        """Returns the discriminator's weight."""
        return {"discriminator": current(self.discriminator_weight)}

    @property
    def traits(self) -> Traits:
        """Two encoders, which see the whole text."""
        return Traits(
            attention="bidirectional",
            measures=frozenset({"replaced"}),
            text_term="generator",
            instead_of_text="it tells which tokens were replaced: `lmjax evaluate RUN` measures how well",
        )
