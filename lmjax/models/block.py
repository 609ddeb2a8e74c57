"""One block of the transformer: its sublayers and the places of their norms.

Axes: M positions before the row.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.kernels.attention.position_bias import PositionBias
from lmjax.masks import IntervalMask
from lmjax.models.attention import Attention
from lmjax.models.cache import Cache, LayerCache, RecurrentCache
from lmjax.models.config import ModelConfig
from lmjax.models.experts import Experts
from lmjax.models.latent_attention import LatentAttention
from lmjax.models.layers import FeedForward, dropout, make_norm, split_key
from lmjax.models.mamba import Mamba2
from lmjax.models.recurrent import Mixer
from lmjax.models.remat import in_order
from lmjax.models.routing import Routing
from lmjax.models.rwkv import Rwkv6


class Block(nnx.Module):
    """One block: attention or a recurrence, cross attention if there is an encoder, and a feed-forward or experts.

    Each of these sublayers adds its output to the residual stream. If ``config.feedforward_width`` is 0, there is no
    feed-forward.

    ``config.residual`` says whether ``attention_norm`` is applied to the input, the output or the sum; a sandwich has
    ``attention_output_norm`` as well. The norms of the other sublayers are placed in the same way.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        mixer: Mixer = "attention",
        has_experts: bool = False,
        source_width: int | None = None,
        rngs: nnx.Rngs,
    ):
        """Builds the sublayers; ``source_width`` is the width of the encoder's states, if there is an encoder."""
        self.config, self.mixer, self.has_experts = config, mixer, has_experts
        self.attention_norm = make_norm(config)
        if mixer == "attention":
            # Each kind of mixer has its own kind of cache.
            attention: type[Any] = LatentAttention if config.latent.rank else Attention
            self.attention = attention(config, rngs=rngs)
        elif mixer == "mamba2":
            self.mamba2 = Mamba2(config, rngs=rngs)
        else:
            self.rwkv6 = Rwkv6(config, rngs=rngs)
        self.has_cross = source_width is not None
        if source_width is not None:
            self.cross_norm = make_norm(config)
            self.cross_attention = Attention(config, source_width=source_width, rngs=rngs)
        self.has_feedforward = has_experts or config.hidden_width > 0
        if self.has_feedforward and config.residual != "parallel":
            self.feedforward_norm = make_norm(config)
        if has_experts:
            self.experts = Experts(config, rngs=rngs)
        elif self.has_feedforward:
            self.feedforward = FeedForward(config, rngs=rngs)
        if config.residual == "sandwich":
            self.attention_output_norm = make_norm(config)
            if self.has_feedforward:
                self.feedforward_output_norm = make_norm(config)
            if self.has_cross:
                self.cross_output_norm = make_norm(config)

    def __call__(
        self,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        mask: IntervalMask,
        *,
        local: bool = False,
        turned: bool = True,
        is_first: jax.Array | bool = False,
        position_bias: PositionBias | None = None,
        source: jax.Array | LayerCache | None = None,
        cross_mask: IntervalMask | None = None,
        valid_BT: jax.Array | None = None,
        before_BMD: jax.Array | None = None,
        cache: Cache | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None, Routing | None]:
        """Returns the new residual stream [B, T, D], the updated cache, and the statistics of the expert routing.

        The cache is None if none was given, the statistics are None if the block has no experts.

        Args:
          x_BTD: the residual stream.
          positions_BT: see :class:`Attention`.
          mask: see :class:`Attention`.
          local: see :class:`Attention`.
          turned: see :class:`Attention`.
          is_first: whether it is the first block of its stack, for ``config.skip_first_norm``.
          position_bias: see :class:`Attention`.
          source: the sequence that cross attention reads, or its keys and values.
          cross_mask: which positions of the source each position sees, as intervals.
          valid_BT: False on padding, see :class:`Experts`.
          before_BMD: the residual stream of the positions before the row, as it entered this block.
          cache: the keys and values, or the state, of the tokens so far.
          key: PRNG key of dropout; None turns dropout off.
        """
        attention_key, *keys = split_key(key, 5 if self.has_cross else 3)
        first_key, second_key = keys[:2]
        mix = functools.partial(
            self._mix,
            positions_BT=positions_BT,
            mask=mask,
            local=local,
            turned=turned,
            position_bias=position_bias,
            before_BMD=before_BMD,
            cache=cache,
            key=attention_key,
        )
        feed = functools.partial(self._feed, valid_BT=valid_BT, dropless=cache is not None)
        routing: Routing | None = None
        if "parallel" in self.config.residual:
            attended_BTD, written = mix(self.attention_norm(x_BTD))
            feedforward_norm = self.attention_norm if self.config.residual == "parallel" else self.feedforward_norm
            fed_BTD, routing = feed(feedforward_norm(x_BTD))
            x_BTD = x_BTD + self._share(attended_BTD, first_key) + self._share(fed_BTD, second_key)
        else:
            skipped = is_first if self.config.skip_first_norm else False
            x_BTD, written = self._add(x_BTD, mix, "attention", first_key, skipped)
            if self.has_cross:
                assert cross_mask is not None
                cross = functools.partial(
                    self.cross_attention, positions_BT=positions_BT, mask=cross_mask, source=source, key=keys[3]
                )
                x_BTD, _ = self._add(x_BTD, cross, "cross", keys[2])
            if self.has_feedforward:
                x_BTD, routing = self._add(x_BTD, feed, "feedforward", second_key)
        return in_order(x_BTD), written, routing

    def _mix(
        self, x_BTD: jax.Array, *, positions_BT: jax.Array, before_BMD: jax.Array | None, cache: Cache | None, **options
    ) -> tuple[jax.Array, Cache | None]:
        """Returns the output of attention or of the recurrence, and the updated cache."""
        if self.mixer != "attention":
            return getattr(self, self.mixer)(x_BTD, positions_BT, cache=cache)
        assert not isinstance(cache, RecurrentCache)
        if before_BMD is not None and self.config.residual not in ("post", "output"):
            before_BMD = self.attention_norm(before_BMD)
        return self.attention(x_BTD, positions_BT, before_BMD=before_BMD, cache=cache, **options)

    def _feed(
        self, x_BTD: jax.Array, *, valid_BT: jax.Array | None, dropless: bool
    ) -> tuple[jax.Array, Routing | None]:
        """Returns the output of the feed-forward or of the experts, and the statistics of the experts' routing."""
        if self.has_experts:
            return self.experts(x_BTD, valid_BT=valid_BT, dropless=dropless)
        return self.feedforward(x_BTD), None

    def _share(self, x_BTD: jax.Array, key: jax.Array | None) -> jax.Array:
        """Returns a sublayer's output as it is added to the residual stream: scaled, and with dropout."""
        scale = self.config.sublayer_scale
        return dropout(x_BTD if scale == 1 else scale * x_BTD, self.config.dropout, key)

    def _add(
        self,
        x_BTD: jax.Array,
        sublayer: Callable[[jax.Array], tuple[jax.Array, Any]],
        name: str,
        key: jax.Array | None,
        skipped: jax.Array | bool = False,
    ) -> tuple[jax.Array, Any]:
        """Adds a sublayer's output to the residual stream; returns the sum, and what else the sublayer returns."""
        norm = getattr(self, f"{name}_norm")
        if self.config.residual in ("post", "output"):
            out_BTD, further = sublayer(x_BTD)
            if self.config.residual == "post":
                return norm(x_BTD + self._share(out_BTD, key)), further
            return x_BTD + self._share(norm(out_BTD), key), further
        out_BTD, further = sublayer(norm(x_BTD) if skipped is False else jnp.where(skipped, x_BTD, norm(x_BTD)))
        if self.config.residual == "sandwich":
            out_BTD = getattr(self, f"{name}_output_norm")(out_BTD)
        return x_BTD + self._share(out_BTD, key), further
