"""Multi-head attention with grouped keys (Ainslie et al. 2023), rotary positions and query-key norms."""

import math
from functools import partial

import jax
from flax import nnx

from lmjax.kernels.attention import attend
from lmjax.masks import IntervalMask
from lmjax.models.cache import LayerCache
from lmjax.models.config import ModelConfig
from lmjax.models.layers import Norm, Projection
from lmjax.models.positions import rotate
from lmjax.parallel.mesh import constrain


class Attention(nnx.Module):
    """Self-attention of one layer."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Builds the projections."""
        self.config = config
        project = partial(Projection, std=config.init_std, bias=config.bias, dtype=config.dtype, rngs=rngs)
        embed = {"embed": config.width}
        heads = {"heads": config.num_heads, "head_width": config.key_width}
        kv_heads = {"kv_heads": config.kv_heads, "head_width": config.key_width}
        self.query = project(embed, heads)
        self.key = project(embed, kv_heads)
        self.value = project(embed, kv_heads)
        self.out = project(heads, embed, scale=1 / math.sqrt(2 * config.num_layers))
        if config.qk_norm:
            epsilon = config.norm_epsilon
            self.query_norm = Norm(config.key_width, kind="rmsnorm", epsilon=epsilon, bias=False)
            self.key_norm = Norm(config.key_width, kind="rmsnorm", epsilon=epsilon, bias=False)

    def __call__(
        self,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        mask: IntervalMask,
        *,
        position_bias=None,
        cache: LayerCache | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, LayerCache | None]:
        """Attends within ``x_BTD``, or, given a cache, to everything in it.

        Args:
          x_BTD: normalised input.
          positions_BT: position of each token; with a cache also the slot it is written to.
          mask: intervals over the keys: the row's own, or the cache's slots.
          position_bias: added to the logits, see :mod:`lmjax.kernels.attention`.
          cache: keys and values so far.
          key: PRNG key of attention dropout; None for none.

        Returns:
          [B, T, D], and the cache with this call's keys and values in it.
        """
        config = self.config
        query_BTNH = constrain(self.query(x_BTD), "batch", None, "heads", None)
        key_BSKH = constrain(self.key(x_BTD), "batch", None, "kv_heads", None)
        value_BSKH = constrain(self.value(x_BTD), "batch", None, "kv_heads", None)
        if config.qk_norm:
            query_BTNH, key_BSKH = self.query_norm(query_BTNH), self.key_norm(key_BSKH)
        if config.positions == "rope":
            query_BTNH = rotate(query_BTNH, positions_BT, theta=config.rope_theta)
            key_BSKH = rotate(key_BSKH, positions_BT, theta=config.rope_theta)
        if cache is not None:
            cache = cache.write(key_BSKH, value_BSKH, positions_BT)
            key_BSKH, value_BSKH = cache.key_BSKH, cache.value_BSKH
        out_BTNH = attend(
            query_BTNH,
            key_BSKH,
            value_BSKH,
            mask,
            softcap=config.attention_softcap,
            position_bias=position_bias,
            query_index_BT=positions_BT if cache is not None else None,
            dropout_rate=config.attention_dropout if key is not None else 0.0,
            key=key,
            backend=config.attention,
        )
        return self.out(out_BTNH), cache
