"""The caches of decoding, one for each layer: keys and values (slot = position in the row), or a state.

Axes: S positions that have room, X latent and turned key, P width of a value, W tokens before, C channels.
"""

import dataclasses

import jax
import jax.numpy as jnp

from lmjax.models.config import ModelConfig
from lmjax.models.recurrent import Mixer


def _put(buffer: jax.Array, new: jax.Array, slots_BT: jax.Array) -> jax.Array:
    row_B1 = jnp.arange(slots_BT.shape[0])[:, None]
    return buffer.at[row_B1, slots_BT].set(new.astype(buffer.dtype), mode="drop")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerCache:
    """The keys and values of one layer, [B, S, K, H] each."""

    key_BSKH: jax.Array
    value_BSKH: jax.Array

    def write(self, key_BTKH: jax.Array, value_BTKH: jax.Array, slots_BT: jax.Array) -> "LayerCache":
        """Returns the cache with new keys and values at ``slots_BT``; rows may have different lengths."""
        return LayerCache(_put(self.key_BSKH, key_BTKH, slots_BT), _put(self.value_BSKH, value_BTKH, slots_BT))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LatentCache:
    """The cache of one layer of latent attention: the latent of each token, and the rotated part of its key."""

    kept_BSX: jax.Array

    def write(self, kept_BTX: jax.Array, slots_BT: jax.Array) -> "LatentCache":
        """Returns the cache with new tokens at ``slots_BT``; rows may have different lengths."""
        return LatentCache(_put(self.kept_BSX, kept_BTX, slots_BT))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RecurrentCache:
    """The state of a recurrent layer [B, N, H, P] (float32), and the last tokens its convolution sees [B, W, C]."""

    state_BNHP: jax.Array
    last_BWC: jax.Array


Cache = LayerCache | LatentCache | RecurrentCache


def empty_cache(config: ModelConfig, *, batch_size: int, length: int) -> tuple[Cache, ...]:
    """Returns one cache for each layer, filled with zeros, in the model's dtype.

    Each has room for ``length`` positions of ``batch_size`` rows. The layers have separate buffers, because XLA updates
    donated buffers in place; it would not do so with one stacked array.
    """

    def layer(mixer: Mixer) -> Cache:
        if mixer == "attention" and config.latent.rank:
            width = config.latent.rank + config.latent.rope_width
            return LatentCache(jnp.zeros((batch_size, length, width), config.dtype))
        if mixer == "attention":
            shape = (batch_size, length, config.kv_heads, config.key_width)
            return LayerCache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))
        if mixer == "mamba2":
            sizes = config.mamba2
            num_heads = sizes.num_heads(config.width)
            state = (batch_size, num_heads, sizes.state_width, sizes.head_width)
            channels = num_heads * sizes.head_width + 2 * sizes.groups * sizes.state_width
            last = (batch_size, sizes.convolution - 1, channels)
        else:
            width = config.rwkv6.head_width
            state, last = (batch_size, config.width // width, width, width), (batch_size, 1, config.width)
        return RecurrentCache(jnp.zeros(state, jnp.float32), jnp.zeros(last, config.dtype))

    return tuple(layer(config.mixers[index % len(config.mixers)]) for index in range(config.num_layers))
