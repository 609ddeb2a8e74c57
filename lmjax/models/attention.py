"""Multi-head attention with grouped keys (Ainslie et al. 2023), rotary positions and query-key norms.

Axes: R buckets of distances, M positions before the row.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.kernels.attention.dispatch import attend
from lmjax.masks import IntervalMask
from lmjax.models.cache import LayerCache
from lmjax.models.config import ModelConfig
from lmjax.models.layers import Norm, Projection, parameter, residual_scale
from lmjax.models.relative import relative_bias, relative_table
from lmjax.models.remat import in_order, named
from lmjax.models.rope import RopeScaling, rope_frequencies, rotate
from lmjax.parallel.mesh import constrain


class Attention(nnx.Module):
    """The attention of one layer: self-attention, or cross attention to another sequence."""

    def __init__(self, config: ModelConfig, *, source_width: int | None = None, rngs: nnx.Rngs):
        """Builds the projections; for cross attention ``source_width`` is the width of the other sequence."""
        self.config = config
        qkv_bias = config.bias if config.qkv_bias is None else config.qkv_bias
        linear = partial(
            Projection,
            std=config.matrix_std,
            dtype=config.dtype,
            low_precision=config.execution.low_precision,
            rngs=rngs,
        )
        project = partial(linear, bias=qkv_bias)
        embed = {"embed": config.width}
        source = {"embed": source_width or config.width}
        heads = {"heads": config.num_heads, "head_width": config.key_width}
        kv_heads = {"kv_heads": config.kv_heads, "head_width": config.key_width}
        self.query = project(embed, heads, scale=query_scale(config))
        self.key = project(source, kv_heads)
        self.value = project(source, kv_heads)
        out_bias = config.bias if config.out_bias is None else config.out_bias
        self.out = linear(heads, embed, scale=residual_scale(config), bias=out_bias)
        self.is_cross = source_width is not None
        own_table = config.positions == "relative" and config.relative_per_layer and not self.is_cross
        self.relative_RN = nnx.data(relative_table(config, rngs=rngs) if own_table else None)
        has_sinks = config.attention_sinks
        self.sinks_N = nnx.data(parameter(jnp.zeros((config.num_heads,)), ("heads",), "bias") if has_sinks else None)
        if config.qk_norm != "none":
            whole = config.qk_norm == "projection"
            norm = partial(
                Norm, kind="rmsnorm", epsilon=config.norm_epsilon, bias=False, offset=config.norm_scale_offset
            )
            self.query_norm = norm(config.key_width * (config.num_heads if whole else 1))
            self.key_norm = norm(config.key_width * (config.kv_heads if whole else 1))

    def __call__(
        self,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        mask: IntervalMask,
        *,
        source: jax.Array | LayerCache | None = None,
        before_BMD: jax.Array | None = None,
        local: bool = False,
        turned: bool = True,
        position_bias=None,
        cache: LayerCache | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, LayerCache | None]:
        """Attends to positions of ``x_BTD``, of a cache, or of a source.

        Args:
          x_BTD: normalised input.
          positions_BT: position of each token; with a cache also the slot it is written to.
          mask: which keys each position sees, as intervals over the keys of the row, of the cache or of the source.
          source: for cross attention, the other sequence [B, S, D'], or its keys and values
            (from :meth:`remember`).
          before_BMD: states of the positions before the row. Keys are made of them, too, and the mask's intervals then
            count from the first of them.
          local: whether the layer has a window, which decides its rotary base.
          turned: whether rotary positions turn the layer's queries and keys.
          position_bias: the bias that is added to the logits, see :mod:`lmjax.kernels.attention`; it is ignored if the
            layer has a bias of its own.
          cache: the keys and values of the tokens so far.
          key: PRNG key of attention dropout; None turns dropout off.

        Returns:
          The output [B, T, D], and the cache with the keys and values of this call in it.
        """
        config = self.config
        query_BTNH = self._normalise(self._clipped(self.query(x_BTD)), "query")
        query_BTNH = constrain(query_BTNH, "batch", "length", "heads", None)
        key_positions_BS, num_before = positions_BT, 0
        if before_BMD is not None:
            num_before = before_BMD.shape[1]
            before_BM = jnp.broadcast_to(jnp.arange(-num_before, 0)[None, :], before_BMD.shape[:2])
            key_positions_BS = jnp.concatenate([before_BM, positions_BT], axis=1)
            source = jnp.concatenate([before_BMD.astype(x_BTD.dtype), x_BTD], axis=1)
        source = x_BTD if source is None else source
        remembered = source if isinstance(source, LayerCache) else self.remember(source)
        key_BSKH, value_BSKH = remembered.keys, remembered.values
        if config.positions == "rope" and turned and not self.is_cross:
            rope = rope_of(config, local)
            query_BTNH, key_BSKH = rotate(query_BTNH, positions_BT, **rope), rotate(key_BSKH, key_positions_BS, **rope)
        query_BTNH, key_BSKH, value_BSKH = map(named, (query_BTNH, key_BSKH, value_BSKH), ("query", "key", "value"))
        if cache is not None:
            cache = cache.write(key_BSKH, value_BSKH, positions_BT)
            key_BSKH, value_BSKH = cache.keys, cache.values
        if self.relative_RN is not None:
            position_bias = relative_bias(config, self.relative_RN[...])
        # If the positions of a row are split over devices, at most keys and values are gathered.
        context = config.execution.context if cache is None else "gather"
        key_axes = ("batch", "length" if context == "ring" else None, "kv_heads", None)
        out_BTNH = attend(
            query_BTNH,
            constrain(key_BSKH, *key_axes),
            constrain(value_BSKH, *key_axes),
            mask,
            scale=config.logit_factor,
            softcap=config.attention_softcap,
            position_bias=position_bias,
            sinks_N=None if self.sinks_N is None else self.sinks_N[...],
            query_index_BT=positions_BT + num_before if cache is not None or num_before else None,
            dropout_rate=config.attention_dropout if key is not None else 0.0,
            key=key,
            backend=config.execution.attention,
            context=context,
        )
        return named(in_order(self.out(out_BTNH)), "attention_projection"), cache

    def remember(self, source_BSD: jax.Array) -> LayerCache:
        """Returns the keys and the values of a sequence; the keys are not rotated yet."""
        key_BSKH = self._normalise(self._clipped(self.key(source_BSD)), "key")
        key_BSKH = constrain(key_BSKH, "batch", "length", "kv_heads", None)
        value_BSKH = constrain(self._clipped(self.value(source_BSD)), "batch", "length", "kv_heads", None)
        return LayerCache.of(key_BSKH, value_BSKH)

    def _clipped(self, x_BTNH: jax.Array) -> jax.Array:
        largest = self.config.qkv_clip
        return x_BTNH if largest is None else jnp.clip(x_BTNH, -largest, largest)

    def _normalise(self, x_BTNH: jax.Array, name: str) -> jax.Array:
        if self.config.qk_norm == "none":
            return x_BTNH
        norm = self.query_norm if name == "query" else self.key_norm
        if self.config.qk_norm == "head":
            return norm(x_BTNH)
        return norm(x_BTNH.reshape(*x_BTNH.shape[:2], -1)).reshape(x_BTNH.shape)


def query_scale(config: ModelConfig) -> float:
    """Returns the factor of the initial queries' standard deviation.

    It compensates for an unusual attention scale, so that the initial logits have the usual size.
    """
    if config.attention_scale is None or config.init_std:
        return 1.0
    return 1 / math.sqrt(config.attention_width) / config.attention_scale


def rope_of(config: ModelConfig, local: bool) -> dict:
    """Returns the arguments of :func:`lmjax.models.rope.rotate` for the queries and keys of a layer."""
    if local and config.local_rope_theta is not None:
        theta, scaling = config.local_rope_theta, RopeScaling()
    else:
        theta, scaling = config.rope_theta, config.rope_scaling
    frequencies = rope_frequencies(config.rotated_width, theta=theta, scaling=scaling)
    return {"frequencies": frequencies, "magnitude": scaling.magnitude}
