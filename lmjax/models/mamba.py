"""Mamba-2 as a mixer of the block: a gated state-space layer (Dao & Gu 2024, section 7).

The paper shows that such a layer is a form of attention. A short causal convolution makes the queries C, keys B and
values x. The state S of each head decays by ``a_t = exp(-exp(A) dt_t)``, and ``dt_t B_t x_t^T`` is added to it. The
output is ``norm((C_t^T S_t + D x_t) silu(z_t)) W_out``, in which the heads of each group have a norm of their own.

Axes: P width of a value, W taps of the convolution or the tokens before, C channels.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.kernels.recurrence import linear_recurrence, shifted
from lmjax.models.cache import RecurrentCache
from lmjax.models.config import ModelConfig
from lmjax.models.layers import Projection, parameter, residual_scale
from lmjax.parallel.mesh import constrain


class Mamba2(nnx.Module):
    """A causal state-space layer; its state is reset at the beginning of each document."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Builds the projections; initial decays are between ``exp(-1.6)`` and ``exp(-0.001)`` (as released)."""
        self.config, sizes = config, config.mamba2
        num_heads, taps = sizes.num_heads(config.width), sizes.convolution
        embed = {"embed": config.width}
        self.heads = {"heads": num_heads, "head_width": sizes.head_width}
        self.groups = {"groups": sizes.groups, "state": sizes.state_width}
        project = partial(Projection, std=config.matrix_std, bias=config.bias, dtype=config.dtype, rngs=rngs)
        self.gate = project(embed, self.heads)
        self.value = project(embed, self.heads)
        self.key = project(embed, self.groups)
        self.query = project(embed, self.groups)
        self.step = project(embed, {"heads": num_heads})
        self.out = project(self.heads, embed, scale=residual_scale(config))
        self.norm_scale_NP = parameter(jnp.ones(tuple(self.heads.values())), tuple(self.heads), "norm")

        def convolution(axes: dict[str, int]) -> nnx.Param:
            weight = jax.random.uniform(rngs.params(), (taps, *axes.values()), minval=-1, maxval=1) / math.sqrt(taps)
            return parameter(weight, ("taps", *axes), "scale")

        self.value_convolution = convolution(self.heads)
        self.key_convolution = convolution(self.groups)
        self.query_convolution = convolution(self.groups)
        if sizes.convolution_bias:

            def bias(axes: dict[str, int]) -> nnx.Param:
                return parameter(jnp.zeros(tuple(axes.values())), tuple(axes), "bias")

            self.value_convolution_bias = bias(self.heads)
            self.key_convolution_bias = bias(self.groups)
            self.query_convolution_bias = bias(self.groups)
        decay_N = jax.random.uniform(rngs.params(), (num_heads,), minval=1.0, maxval=16.0)
        self.log_decay_N = parameter(jnp.log(decay_N), ("heads",), "scale")
        step_N = jnp.exp(jax.random.uniform(rngs.params(), (num_heads,), minval=math.log(1e-3), maxval=math.log(1e-1)))
        self.step_bias_N = parameter(step_N + jnp.log(-jnp.expm1(-step_N)), ("heads",), "bias")
        self.skip_N = parameter(jnp.ones((num_heads,)), ("heads",), "scale")

    def __call__(
        self, x_BTD: jax.Array, positions_BT: jax.Array, *, cache: RecurrentCache | None = None
    ) -> tuple[jax.Array, RecurrentCache | None]:
        """Maps [B, T, D] to [B, T, D]; with a cache, also returns the state after the last token.

        Args:
          x_BTD: normalised input.
          positions_BT: position of each token in its document: at 0 the state is empty.
          cache: the state and the last tokens so far.
        """
        sizes = self.config.mamba2
        num_value, num_key = math.prod(self.heads.values()), math.prod(self.groups.values())
        batch, length, _ = x_BTD.shape
        raw = [part(x_BTD).reshape(batch, length, -1) for part in (self.value, self.key, self.query)]
        weights = [self.value_convolution, self.key_convolution, self.query_convolution]
        weight_WC = jnp.concatenate([weight[...].reshape(sizes.convolution, -1) for weight in weights], axis=1)
        window_BTWC, last_BWC = shifted(
            jnp.concatenate(raw, axis=2),
            positions_BT,
            sizes.convolution,
            before_BWC=None if cache is None else cache.last_BWC,
        )
        mixed_BTC = jnp.einsum("btwc,wc->btc", window_BTWC, weight_WC.astype(x_BTD.dtype))
        if sizes.convolution_bias:
            biases = [self.value_convolution_bias, self.key_convolution_bias, self.query_convolution_bias]
            bias_C = jnp.concatenate([bias[...].reshape(-1) for bias in biases])
            mixed_BTC = mixed_BTC + bias_C[None, None, :].astype(x_BTD.dtype)
        mixed_BTC = jax.nn.silu(mixed_BTC)
        value_BTC, key_BTC, query_BTC = jnp.split(mixed_BTC, (num_value, num_value + num_key), axis=2)
        value_BTNP = constrain(value_BTC.reshape(batch, length, *self.heads.values()), "batch", None, "heads", None)

        def spread(array_BTC: jax.Array) -> jax.Array:
            """Returns the keys or queries of each group, repeated for each of its heads."""
            array = array_BTC.reshape(batch, length, *self.groups.values())
            return constrain(
                jnp.repeat(array, self.heads["heads"] // sizes.groups, axis=2), "batch", None, "heads", None
            )

        step_BTN = jax.nn.softplus(self.step(x_BTD).astype(jnp.float32) + self.step_bias_N[...][None, None, :])
        log_decay_BTN = -jnp.exp(self.log_decay_N[...])[None, None, :] * step_BTN
        out_BTNP, state_BNHP = linear_recurrence(
            spread(query_BTC),
            spread(key_BTC).astype(jnp.float32) * step_BTN[..., None],
            value_BTNP,
            log_decay_BTN[..., None],
            begins_BT=positions_BT == 0,
            state_BNHP=None if cache is None else cache.state_BNHP,
            chunk=self.config.execution.mamba2_chunk,
        )
        out_BTNP = out_BTNP + self.skip_N[...][None, None, :, None] * value_BTNP.astype(jnp.float32)
        gated_BTNP = out_BTNP * jax.nn.silu(self.gate(x_BTD).astype(jnp.float32))
        updated = None if cache is None else RecurrentCache(state_BNHP, last_BWC)
        return self.out(self._normalised(gated_BTNP)), updated

    def _normalised(self, gated_BTNP: jax.Array) -> jax.Array:
        grouped = gated_BTNP.reshape(*gated_BTNP.shape[:2], self.config.mamba2.groups, -1)
        mean_square = jnp.mean(jnp.square(grouped), axis=-1, keepdims=True)
        normed = grouped * jax.lax.rsqrt(mean_square + self.config.norm_epsilon)
        return normed.reshape(gated_BTNP.shape) * self.norm_scale_NP[...][None, None]
