"""Masked diffusion language modelling: MDLM (Sahoo et al. 2024, section 3).

Each row gets a time t; each of its tokens is the mask token with probability ``1 - alpha(t)``, and a
bidirectional model names what the masks hide. The loss of a row x of N tokens,

    1/N  -alpha'(t) / (1 - alpha(t))  sum over masked i of  - log p(x_i | x_t),

is in expectation over t the negative evidence lower bound per token, so a validation's ``loss`` bounds
the nats of a token from above, and its ``perplexity`` the perplexity.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.corruption import absorb, diffusion_times
from lmjax.corruption.diffusion import SCHEDULES
from lmjax.losses import linear_cross_entropy
from lmjax.models.config import ModelConfig
from lmjax.models.hidden import Hidden
from lmjax.models.time_conditioned import run_at_level, time_conditioned
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import WithExtras, model_of
from lmjax.objectives.parts.objective import Objective, Terms, Traits
from lmjax.objectives.parts.token_objective import token_weights
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, Stream, make_stream

EXCLUDED = -1e9
"""Added to a logit to give its token no probability. It is finite, so that no product of it is NaN."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedDiffusion(Objective):
    """Absorbing diffusion in continuous time, trained and evaluated on its variational bound.

    The model is MDLM's substitution parameterisation: visible tokens carry over, so only masked
    positions are scored, and the mask token has no probability. Unless asked to it is not told the time,
    which the share of masks shows anyway.
    """

    schedule: Literal["linear", "log_linear", "cosine"] = "linear"
    """How alpha falls with time: `1 - t`, `1 - 0.999 t`, or `cos(pi t / 2)`."""
    least_time: float = 1e-3
    """Times are uniform on [least_time, 1): weights grow as 1 / t."""
    low_discrepancy: bool = True
    """Spread the times of a batch evenly (less variance), rather than draw each on its own."""
    time_conditioning: bool = False
    """Whether the model is told the share of tokens masked at each row's time."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.least_time < 1:
            raise ValueError(f"objective.least_time={self.least_time}: must lie between 0 and 1")

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a tokenizer without a mask token, and capped logits."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        vocabulary.require("mask", needed_by=type(self).__name__)
        if model.logit_softcap is not None:
            raise ValueError(
                f"model.logit_softcap={model.logit_softcap}: {type(self).__name__} gives the mask token no "
                f"probability, which a capped logit cannot: set it to None"
            )
        if self.time_conditioning and model.width % 2:
            raise ValueError(f"model.width={model.width}: objective.time_conditioning needs an even width")

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a transformer, with layers that tell it the time if asked to."""
        return time_conditioned(model, rngs=rngs) if self.time_conditioning else Transformer(model, rngs=rngs)

    def hidden(self, model: Any, stream: Stream, level_B: jax.Array, key: jax.Array | None) -> Hidden:
        """Runs the model on rows of which a share ``level_B`` is masked."""
        if isinstance(model, WithExtras):
            return run_at_level(model, stream, level_B, key=key)
        return model(stream, key=key)

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Masks every token that has a loss weight, special ones too: sampling begins with masks alone.

        The extras hold ``noise_weight``, the factor of the cross entropy at each position (0 where a
        token is visible), ``level``, the share masked at each row's time, and ``mask_id``. The weights stay
        those of the tokens: their sum, the number of tokens, is what the bound is divided by.
        """
        mask_id = vocabulary.require("mask", needed_by="MaskedDiffusion")
        time_key, mask_key = jax.random.split(key)
        num_rows = rows.tokens_BT.shape[0]
        times_B = diffusion_times(time_key, num_rows, least=self.least_time, low_discrepancy=self.low_discrepancy)
        noise = SCHEDULES[self.schedule](times_B)
        weights_BT = token_weights(rows) * (rows.tokens_BT != mask_id)
        is_noised_BT = (weights_BT > 0).astype(jnp.int32)
        inputs_BT, masked_BT = absorb(mask_key, rows.tokens_BT, noise.alpha, mask_id=mask_id, segments_BT=is_noised_BT)
        return Batch(
            inputs=make_stream(inputs_BT, rows.segments_BT, "bidirectional"),
            targets_BP=rows.tokens_BT,
            weights={"loss": weights_BT},
            extras={
                "noise_weight": jnp.where(masked_BT, noise.weight[:, None], 0.0),
                "level": noise.hidden,
                "mask_id": jnp.full((num_rows,), mask_id, jnp.int32),
            },
        )

    def terms(self, model: nnx.Module, batch: Batch, key: jax.Array | None) -> Terms:
        """Returns the bound. The head runs on all positions, since any number of them may be masked."""
        hidden = self.hidden(model, batch.inputs, batch.extras["level"], key)
        transformer: Transformer = model_of(model)
        head = transformer.head()
        is_mask_V = jnp.arange(head.weight_DV.shape[1]) == batch.extras["mask_id"][0]
        excluded_V = jnp.where(is_mask_V, EXCLUDED, 0.0)
        loss = linear_cross_entropy(
            transformer.head_states(hidden.states_BTD),
            head.weight_DV,
            batch.targets_BP,
            batch.weights["loss"] * batch.extras["noise_weight"],
            bias=excluded_V if head.bias_V is None else head.bias_V + excluded_V,
        )
        return Terms({"loss": loss}, hidden.routing)

    @property
    def traits(self) -> Traits:
        """Every position sees the whole row, since masks are filled in any order."""
        return Traits(attention="bidirectional", text_term="loss")
