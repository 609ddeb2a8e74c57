"""Professor forcing: left to itself, a model should think as it does when it is taught (Lamb et al. 2016).

A discriminator reads the hidden states of a piece of text and tells whether the model read the text (teacher
forced) or its own continuation of a prompt (free running). With ``s`` its score that it was the text,

    loss           = mean - log p(x_t | x_<t)
    discriminator  = mean over pieces of  softplus(- s(states of text)) + softplus(s(states of samples))
    fooling        = mean over pieces of  softplus(- s(states of samples))   [+ softplus(s(states of text))]

(section 2.2: NLL, C_d, C_f and, optionally, C_t). The discriminator learns from its own loss only, and the
language model from the other two. As in the paper, the discriminator rests while it is right nearly always,
and the model is told nothing by a discriminator that is not yet right often enough.

A transformer has no state it would carry on: what it samples is fixed by its tokens. So samples are drawn with
the cache, through which nothing is differentiated, and one parallel pass over prompt and samples then gives
exactly the states they were drawn from.

Axes: Q pieces of text and samples by turns, W tokens of a piece.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax import masks
from lmjax.models.config import ModelConfig
from lmjax.models.layers import Projection, split_key
from lmjax.models.routing import ExpertsConfig
from lmjax.models.stack import Stack
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import WithExtras
from lmjax.objectives.causal_lm import CausalLM
from lmjax.objectives.parts.model_samples import (
    check_temperature,
    check_window,
    check_window_fits,
    choose_windows,
    continue_prompts,
    sampling_extras,
)
from lmjax.objectives.parts.objective import Terms, Traits
from lmjax.objectives.parts.token_objective import TokenObjective
from lmjax.schedules.ramp import Scalar, current, extremes
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream


class StateDiscriminator(nnx.Module):
    """Blocks that read a piece of hidden states in both directions, and a score of the mean of their output."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Builds a stack as ``config`` says."""
        self.stack = Stack(config, rngs=rngs)
        self.classifier = Projection(
            {"embed": config.width}, {"decision": 1}, std=config.init_std, bias=True, dtype=config.dtype, rngs=rngs
        )

    def __call__(self, states_BTD: jax.Array) -> jax.Array:
        """Returns the score that the states are those of text and not of samples, float32 [B]."""
        num_rows, length = states_BTD.shape[:2]
        positions_BT = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None, :], (num_rows, length))
        hidden = self.stack.run(states_BTD, positions_BT, masks.bidirectional(length))
        return self.classifier(jnp.mean(hidden.states_BTD, axis=1))[:, 0].astype(jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfessorForcing(TokenObjective):
    """Next-token prediction with states that do not tell whether the model reads text or its own samples."""

    weight: Scalar = 1.0
    """Weight of the loss ``fooling``."""
    prompt_length: int = 32
    """Number of tokens of text before a continuation."""
    free_tokens: int = 32
    """Number of tokens sampled after the prompt; the discriminator reads the states there."""
    temperature: Scalar = 1.0
    """Temperature of the sampling; 0 takes the likeliest token."""
    discriminator_layers: int = 1
    """Number of blocks of the discriminator, which are as wide as the model's."""
    discriminator_below: float = 0.99
    """The discriminator learns while the share of pieces it is right about is below this."""
    fooling_above: float = 0.75
    """The model learns from the discriminator while that share is above this."""
    move_text: bool = False
    """Move the states of text towards those of samples as well (the paper's C_t), and not only the other way round."""

    def __post_init__(self):
        super().__post_init__()
        check_window(prompt_length=self.prompt_length, free_tokens=self.free_tokens)
        check_temperature(self.temperature)
        if min(extremes(self.weight)) < 0:
            raise ValueError(f"objective.weight={self.weight}: must not be negative")
        if self.discriminator_layers < 1:
            raise ValueError(f"objective.discriminator_layers={self.discriminator_layers}: must be at least 1")
        for name in ("discriminator_below", "fooling_above"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"objective.{name}={getattr(self, name)}: is a share, from 0 to 1")

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses pieces longer than a row, and a head width the discriminator cannot turn."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        check_window_fits(
            prompt_length=self.prompt_length, free_tokens=self.free_tokens, sequence_length=sequence_length
        )
        self.discriminator_config(model)

    def discriminator_config(self, model: ModelConfig) -> ModelConfig:
        """Returns the model's configuration with fewer blocks, plain attention, and without dropout or experts."""
        return dataclasses.replace(
            model,
            num_layers=self.discriminator_layers,
            positions="rope",
            windows=(None,),
            mixers=("attention",),
            experts=ExpertsConfig(),
            dropout=0.0,
            attention_dropout=0.0,
        )

    @property
    def traits(self) -> Traits:
        """The discriminator's accuracy, over the whole batch, decides who learns."""
        return Traits(couples_examples=True, measures=frozenset({"accuracy"}), text_term="loss")

    def row_length(self, sequence_length: int) -> int:
        """Returns T + 1: T inputs and the token after the last of them."""
        return sequence_length + 1

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the model, with the ``discriminator`` of its states as an extra."""
        transformer = Transformer(model, rngs=rngs)
        return WithExtras(transformer, discriminator=StateDiscriminator(self.discriminator_config(model), rngs=rngs))

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Makes a causal model's batch and takes a piece of each row. Samples are drawn in ``terms``."""
        window_key, sample_key = jax.random.split(key)
        batch = CausalLM().corrupt(key, rows, vocabulary)
        windows_BW, weights_B = choose_windows(
            window_key, rows, prompt_length=self.prompt_length, num_tokens=self.free_tokens
        )
        extras = {"piece": windows_BW} | sampling_extras(sample_key, windows_BW.shape[0], vocabulary)
        weights = dict.fromkeys(("discriminator", "fooling", "accuracy"), weights_B)
        return dataclasses.replace(batch, weights=batch.weights | weights, extras=extras)

    def terms(  # type: ignore[override]
        self, model: WithExtras, batch: Batch, key: jax.Array | None
    ) -> Terms:
        """Returns the three losses and ``accuracy``, the share of pieces on which the discriminator is right."""
        text_key, piece_key = split_key(key, 2)
        terms = super().terms(model.model, batch, text_key)
        states_QTD = self.states(model.model, batch, piece_key)
        return terms | self.judge(model.extras["discriminator"], states_QTD, batch.weights)

    def judge(
        self, discriminator: StateDiscriminator, states_QTD: jax.Array, weights: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Returns ``discriminator``, ``fooling`` and ``accuracy`` of the states that :meth:`states` returns."""
        text_B, sampled_B = _pairs(discriminator(jax.lax.stop_gradient(states_QTD)))
        judged_text_B, judged_sampled_B = _pairs(jax.lax.stop_gradient(discriminator)(states_QTD))
        fooling_B = jax.nn.softplus(-judged_sampled_B)
        if self.move_text:
            fooling_B = fooling_B + jax.nn.softplus(judged_text_B)
        right_B = ((text_B > 0).astype(jnp.float32) + (sampled_B < 0)) / 2
        right = jnp.sum(weights["accuracy"] * right_B)
        accuracy = right / jnp.maximum(jnp.sum(weights["accuracy"]), 1e-9)
        told = jnp.sum(weights["discriminator"] * (jax.nn.softplus(-text_B) + jax.nn.softplus(sampled_B)))
        fooling = jnp.sum(weights["fooling"] * fooling_B)
        return {
            "discriminator": _learned_if(accuracy < self.discriminator_below, told),
            "fooling": _learned_if(accuracy > self.fooling_above, fooling),
            "accuracy": right,
        }

    def states(self, model: Transformer, batch: Batch, key: jax.Array | None) -> jax.Array:
        """Returns the states after the prompts, [2 B, free_tokens, D]: of each row's text, then of its samples."""
        text_BW = batch.extras["piece"]
        sampled_BW = continue_prompts(
            model,
            text_BW[:, : self.prompt_length],
            batch.extras,
            num_tokens=self.free_tokens,
            temperature=current(self.temperature),
        )
        # Side by side and not one after the other: each row stays on its device.
        both_QW = jnp.stack([text_BW, sampled_BW], axis=1).reshape(-1, text_BW.shape[1])
        return model(make_stream(both_QW, None, "causal"), key=key).states_BTD[:, self.prompt_length :]

    def coefficients(self) -> dict[str, float | jax.Array]:
        """Returns the weight of ``fooling``."""
        return {"fooling": current(self.weight)}

    def for_evaluation(self) -> CausalLM:
        """Returns a causal model's objective."""
        return CausalLM()


def _pairs(scores_Q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the scores of text and those of samples, [B] each."""
    return scores_Q[0::2], scores_Q[1::2]


def _learned_if(condition: jax.Array, loss: jax.Array) -> jax.Array:
    """Returns the loss, without a gradient unless the condition holds."""
    return jnp.where(condition, loss, jax.lax.stop_gradient(loss))
