"""Multi-head latent attention (DeepSeek-V2, section 2.1 and appendix C).

Axes: C width of a token's latent, R width of the part that turns, X both together, V width of a value, M positions
before the row.

    c_s = norm(x_s W_latent)                        [C], one for all heads
    k_sn = [c_s W_key,n ; turned(x_s W_position)]   [H + R], its last part one for all heads
    v_sn = c_s W_value,n                            [V]
    q_tn = [content ; turned(position)] of x_t, or of norm(x_t W_query_down)

Without a cache, keys and values are made of the latents, and attention is as usual. With a cache, only ``c_s`` and
the rotated part are kept, because both parts of ``q . k`` can be computed from them: ``q . (c W_key) = (q W_key^T) .
c``, and ``sum_s a_s (c_s W_value) = (sum_s a_s c_s) W_value``. All heads then read one set of keys, C + R wide.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.kernels.attention.dispatch import attend
from lmjax.masks import IntervalMask
from lmjax.models.attention import query_scale, rope_of
from lmjax.models.cache import LatentCache
from lmjax.models.config import ModelConfig
from lmjax.models.layers import Norm, Projection, residual_scale
from lmjax.models.rope import rotate
from lmjax.parallel.mesh import constrain


class LatentAttention(nnx.Module):
    """The self-attention of one layer."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Builds the projections."""
        self.config, sizes = config, config.latent
        bias = config.bias if config.qkv_bias is None else config.qkv_bias
        project = partial(
            Projection,
            std=config.matrix_std,
            dtype=config.dtype,
            low_precision=config.execution.low_precision,
            rngs=rngs,
        )
        norm = partial(Norm, kind="rmsnorm", epsilon=sizes.norm_epsilon, bias=False, offset=config.norm_scale_offset)
        embed, latent = {"embed": config.width}, {"latent": sizes.rank}
        heads = {"heads": config.num_heads}
        content, position = heads | {"head_width": config.key_width}, heads | {"rope_width": sizes.rope_width}
        value = heads | {"head_width": config.value_width}
        of_query = embed
        if sizes.query_rank is not None:
            of_query = {"latent": sizes.query_rank}
            self.query_down = project(embed, of_query, bias=bias)
            self.query_norm = norm(sizes.query_rank)
        query_bias = bias and sizes.query_rank is None
        self.query_content = project(of_query, content, scale=query_scale(config), bias=query_bias)
        self.query_position = project(of_query, position, scale=query_scale(config), bias=query_bias)
        self.latent = project(embed, latent, bias=bias)
        self.latent_norm = norm(sizes.rank)
        self.key_position = project(embed, {"rope_width": sizes.rope_width}, bias=bias)
        self.key_content = project(latent, content, bias=False)
        self.value = project(latent, value, bias=False)
        self.out = project(value, embed, scale=residual_scale(config), bias=config.bias)

    def __call__(
        self,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        mask: IntervalMask,
        *,
        before_BMD: jax.Array | None = None,
        local: bool = False,
        turned: bool = True,
        position_bias=None,
        cache: LatentCache | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, LatentCache | None]:
        """Takes and returns what :class:`lmjax.models.attention.Attention` does, but allows no position bias."""
        assert position_bias is None and turned
        rope = rope_of(self.config, local)
        of_query = x_BTD if self.config.latent.query_rank is None else self.query_norm(self.query_down(x_BTD))
        content_BTNH = constrain(self.query_content(of_query), "batch", "length", "heads", None)
        position_BTNR = rotate(self.query_position(of_query), positions_BT, **rope)
        source_BSD, source_positions_BS, num_before = x_BTD, positions_BT, 0
        if before_BMD is not None:
            num_before = before_BMD.shape[1]
            before_BM = jnp.broadcast_to(jnp.arange(-num_before, 0)[None, :], before_BMD.shape[:2])
            source_positions_BS = jnp.concatenate([before_BM, positions_BT], axis=1)
            source_BSD = jnp.concatenate([before_BMD.astype(x_BTD.dtype), x_BTD], axis=1)
        latent_BSC = self.latent_norm(self.latent(source_BSD))
        turned_BS1R = rotate(self.key_position(source_BSD)[:, :, None, :], source_positions_BS, **rope)
        attention = partial(
            attend,
            mask=mask,
            scale=self.config.logit_factor or self.config.attention_width**-0.5,
            softcap=self.config.attention_softcap,
            query_index_BT=positions_BT + num_before if cache is not None or num_before else None,
            dropout_rate=self.config.attention_dropout if key is not None else 0.0,
            key=key,
            backend=self.config.execution.attention,
        )
        if cache is not None:
            cache = cache.write(jnp.concatenate([latent_BSC, turned_BS1R[:, :, 0]], axis=-1), positions_BT)
            return self.out(self._read(cache, content_BTNH, position_BTNR, attention)), cache
        context = self.config.execution.context
        key_axes = ("batch", "length" if context == "ring" else None, "heads", None)
        key_BSNH = constrain(self.key_content(latent_BSC), *key_axes)
        turned_BSNR = jnp.broadcast_to(turned_BS1R, (*key_BSNH.shape[:-1], turned_BS1R.shape[-1]))
        out_BTNV = attention(
            jnp.concatenate([content_BTNH, position_BTNR], axis=-1),
            jnp.concatenate([key_BSNH, turned_BSNR], axis=-1),
            constrain(self.value(latent_BSC), *key_axes),
            context=context,
        )
        return self.out(out_BTNV), None

    def _read(self, cache: LatentCache, content_BTNH: jax.Array, position_BTNR: jax.Array, attention) -> jax.Array:
        """Attends to the cache and returns the values of the heads, [B, T, N, V]."""
        dtype = content_BTNH.dtype
        key_CNH, value_CNV = (part.matrix().astype(dtype) for part in (self.key_content, self.value))
        content_BTNC = jnp.einsum("btnh,cnh->btnc", content_BTNH, key_CNH)
        kept_BS1X = cache.kept_BSX[:, :, None, :].astype(dtype)
        latent_BTNC = attention(
            jnp.concatenate([content_BTNC, position_BTNR], axis=-1),
            kept_BS1X,
            kept_BS1X[..., : self.config.latent.rank],
        )
        return jnp.einsum("btnc,cnv->btnv", latent_BTNC, value_CNV)
