"""Score entropy: SEDD with absorbing noise (Lou et al. 2024, sections 3.1 to 3.3).

At a masked position the model's score of token y estimates ``p(y here) / p(mask here)``. With the scores
written as ``s_y = r exp(l_y)``, r = alpha / (1 - alpha), and ``l_y`` the model's logit less ``log(V - 1)``
(the released code's scaling, by which initial scores sum to about r), the denoising score entropy of a
row x of N tokens is

    1/N  -alpha'(t) / (1 - alpha(t))  sum over masked i of  (sum over y of exp(l_y)) - l_(x_i) - 1,

y over all but the mask: MDLM's loss if the scores are normalised, and more if they are not. It is a
bound on the nats of a token as well.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.models.head import gathered_head
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import model_of
from lmjax.objectives.masked_diffusion import EXCLUDED, MaskedDiffusion
from lmjax.objectives.parts.logit_chunks import chunk_length, sum_over_chunks
from lmjax.objectives.parts.objective import Terms
from lmjax.types import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreEntropy(MaskedDiffusion):
    """Absorbing diffusion trained on ratios of probabilities that need not sum to one."""

    time_conditioning: bool = True
    """Whether the model is told the share of tokens masked at each row's time; scores depend on it."""

    def terms(self, model: nnx.Module, batch: Batch, key: jax.Array | None) -> Terms:
        """Returns the bound. Scores exist for a chunk of positions at a time."""
        hidden = self.hidden(model, batch.inputs, batch.extras["level"], key)
        transformer: Transformer = model_of(model)
        head = gathered_head(transformer)
        mask_id = batch.extras["mask_id"][0]

        def chunk(hidden_BCD: jax.Array, targets_BC: jax.Array, weights_BC: jax.Array) -> tuple[jax.Array]:
            logits_BCV = head(hidden_BCD)
            logits_BCV = logits_BCV - math.log(logits_BCV.shape[-1] - 1)
            is_mask_11V = (jnp.arange(logits_BCV.shape[-1]) == mask_id)[None, None, :]
            logits_BCV = jnp.where(is_mask_11V, EXCLUDED, logits_BCV)
            target_BC = jnp.take_along_axis(logits_BCV, targets_BC[..., None], axis=-1)[..., 0]
            # Visible positions may have any score: their infinities are kept out of the sum and its gradient.
            logits_BCV = jnp.where((weights_BC > 0)[..., None], logits_BCV, 0.0)
            entropy_BC = jnp.sum(jnp.exp(logits_BCV), axis=-1) - target_BC - 1
            return (jnp.sum(jnp.where(weights_BC > 0, weights_BC * entropy_BC, 0.0)),)

        weights_BT = batch.weights["loss"] * batch.extras["noise_weight"]
        length = chunk_length(hidden.states_BTD.shape[0], transformer.config.vocab_size)
        (loss,) = sum_over_chunks(chunk, length, hidden.states_BTD, batch.targets_BP, weights_BT)
        return Terms({"loss": loss}, hidden.routing)
