"""RWKV-6's time mixing as a mixer of the block (Peng et al. 2024, section 4.2).

Each token is mixed with the one before it, by amounts that depend on both. The mixtures give the receptance r (the
query), the key, the value, the gate g and the decay of every channel, ``a_t = exp(-exp(w_t))``. A token reads the state
before it and, with a bonus u, itself. Each head is normalised by itself:
``(norm(r_t^T (S_(t-1) + diag(u) k_t v_t^T)) silu(g_t)) W_out``.

Axes: P width of a value, W tokens of a window, M mixtures of a token with the one before, R rank, C channels.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.kernels.recurrence import linear_recurrence, shifted
from lmjax.models.cache import RecurrentCache
from lmjax.models.config import ModelConfig
from lmjax.models.layers import Projection, parameter, residual_scale
from lmjax.parallel.mesh import constrain

_MIXED = ("decay", "key", "value", "receptance", "gate")


class Rwkv6(nnx.Module):
    """A causal linear recurrence with a decay for each channel; each document begins with an empty state."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Builds the projections; initial decays are slow in the first channels and fast in the last (as released)."""
        self.config, sizes, width = config, config.rwkv6, config.width
        project = partial(Projection, std=config.matrix_std, bias=False, dtype=config.dtype, rngs=rngs)
        embed = {"embed": width}
        self.heads = {"heads": width // sizes.head_width, "head_width": sizes.head_width}
        self.receptance = project(embed, self.heads)
        self.key = project(embed, self.heads)
        self.value = project(embed, self.heads)
        self.gate = project(embed, self.heads)
        self.out = project(self.heads, embed, scale=residual_scale(config))
        self.mix_down = project(embed, {"mixes": len(_MIXED), "rank": sizes.mix_rank})
        up_shape = (len(_MIXED), sizes.mix_rank, width)
        self.mix_up = parameter(0.01 * jax.random.normal(rngs.params(), up_shape), ("mixes", "rank", "embed"), "matrix")
        self.decay_down = project(embed, {"rank": sizes.decay_rank})
        self.decay_up = project({"rank": sizes.decay_rank}, self.heads, scale=0.1)
        place_D = jnp.arange(width) / max(width - 1, 1)
        self.mix_MD = parameter(jnp.tile(1 - place_D[None, :], (len(_MIXED) + 1, 1)), ("mixes", "norm"), "scale")
        shape = tuple(self.heads.values())
        self.decay_NH = parameter((-6 + 5 * place_D**0.9).reshape(shape), tuple(self.heads), "bias")
        self.bonus_NH = parameter((0.5 * (1 - place_D)).reshape(shape), tuple(self.heads), "scale")
        self.norm_scale_NH = parameter(jnp.ones(shape), tuple(self.heads), "norm")
        self.norm_bias_NH = parameter(jnp.zeros(shape), tuple(self.heads), "bias")

    def __call__(
        self, x_BTD: jax.Array, positions_BT: jax.Array, *, cache: RecurrentCache | None = None
    ) -> tuple[jax.Array, RecurrentCache | None]:
        """Maps [B, T, D] to [B, T, D]; with a cache, also returns the last state (see :class:`Mamba2`)."""
        window_BTWD, last_BWD = shifted(x_BTD, positions_BT, 2, before_BWC=None if cache is None else cache.last_BWC)
        mixed = self._mix(x_BTD, window_BTWD[:, :, 0])

        def heads(name: str, projection: Projection) -> jax.Array:
            return constrain(projection(mixed[name]), "batch", None, "heads", None)

        raised_BTNH = self.decay_up(jnp.tanh(self.decay_down(mixed["decay"]))).astype(jnp.float32)
        log_decay_BTNH = -jnp.exp(self.decay_NH[...][None, None] + raised_BTNH)
        out_BTNP, state_BNHP = linear_recurrence(
            heads("receptance", self.receptance),
            heads("key", self.key),
            heads("value", self.value),
            log_decay_BTNH,
            begins_BT=positions_BT == 0,
            state_BNHP=None if cache is None else cache.state_BNHP,
            bonus_NH=self.bonus_NH[...],
            chunk=self.config.execution.rwkv6_chunk,
        )
        gate_BTNP = jax.nn.silu(heads("gate", self.gate)).astype(jnp.float32)
        updated = None if cache is None else RecurrentCache(state_BNHP, last_BWD)
        return self.out(self._normalised(out_BTNP) * gate_BTNP), updated

    def _mix(self, x_BTD: jax.Array, before_BTD: jax.Array) -> dict[str, jax.Array]:
        """Returns five mixtures of each token with the one before it, by name.

        The proportions are learned and depend on the token.
        """
        mix_MD = self.mix_MD[...].astype(x_BTD.dtype)
        change_BTD = before_BTD - x_BTD
        down_BTMR = jnp.tanh(self.mix_down(x_BTD + change_BTD * mix_MD[0][None, None]))
        up_BTMD = jnp.einsum("btmr,mrd->btmd", down_BTMR, self.mix_up[...].astype(x_BTD.dtype))
        return {
            name: x_BTD + change_BTD * (mix_MD[index + 1][None, None] + up_BTMD[:, :, index])
            for index, name in enumerate(_MIXED)
        }

    def _normalised(self, out_BTNP: jax.Array) -> jax.Array:
        centred = out_BTNP - out_BTNP.mean(axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.config.norm_epsilon)
        return normed * self.norm_scale_NH[...][None, None] + self.norm_bias_NH[...][None, None]
