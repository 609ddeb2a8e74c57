"""The caches of decoding, one for each layer: keys and values (slot = position in the row), or a state.

Axes: S positions that have room, X latent and turned key, P width of a value, W tokens before, C channels.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.models.config import ModelConfig
from lmjax.models.recurrent import Mixer
from lmjax.parallel.mesh import current_platform

FEW_TOKENS = 32
"""The largest number of new tokens, in all rows, that a CPU writes into a cache one by one."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerCache:
    """The keys and values of one layer, [B, K, S, H] each: in this order of the axes a CPU multiplies them in place."""

    key_BKSH: jax.Array
    value_BKSH: jax.Array

    @classmethod
    def of(cls, key_BSKH: jax.Array, value_BSKH: jax.Array) -> "LayerCache":
        """Returns the cache of these keys and values."""
        return cls(jnp.swapaxes(key_BSKH, 1, 2), jnp.swapaxes(value_BSKH, 1, 2))

    @property
    def keys(self) -> jax.Array:
        """The keys as attention takes them, [B, S, K, H]."""
        return jnp.swapaxes(self.key_BKSH, 1, 2)

    @property
    def values(self) -> jax.Array:
        """The values as attention takes them, [B, S, K, H]."""
        return jnp.swapaxes(self.value_BKSH, 1, 2)

    def write(self, key_BTKH: jax.Array, value_BTKH: jax.Array, slots_BT: jax.Array) -> "LayerCache":
        """Returns the cache with new keys and values at ``slots_BT``; rows may have different lengths."""
        return LayerCache(
            _written(self.key_BKSH, jnp.swapaxes(key_BTKH, 1, 2), slots_BT),
            _written(self.value_BKSH, jnp.swapaxes(value_BTKH, 1, 2), slots_BT),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LatentCache:
    """The cache of one layer of latent attention: the latent of each token, and the rotated part of its key."""

    kept_BSX: jax.Array

    def write(self, kept_BTX: jax.Array, slots_BT: jax.Array) -> "LatentCache":
        """Returns the cache with new tokens at ``slots_BT``; rows may have different lengths."""
        return LatentCache(_written(self.kept_BSX, kept_BTX, slots_BT))


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
            shape = (batch_size, config.kv_heads, length, config.key_width)
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


def _written(buffer: jax.Array, new: jax.Array, slots_BT: jax.Array) -> jax.Array:
    """Returns a buffer [B, ..., S, X] with new values [B, ..., T, X] at ``slots_BT``; a slot from S on is no slot.

    XLA makes a loop of a scatter on CPUs, which takes ten times as long as an update for each of a few tokens.
    """
    new = new.astype(buffer.dtype)
    if current_platform() != "cpu" or slots_BT.size > FEW_TOKENS:
        put = jax.vmap(lambda one, values, slots_T: one.at[..., slots_T, :].set(values, mode="drop"))
        return put(buffer, new, slots_BT)
    for row, place in np.ndindex(slots_BT.shape):
        slot, values = slots_BT[row, place], new[row : row + 1, ..., place : place + 1, :]
        at = (row, *(0,) * (buffer.ndim - 3), slot, 0)
        there = jax.lax.dynamic_slice(buffer, at, values.shape)
        values = jnp.where(slot < buffer.shape[-2], values, there)
        buffer = jax.lax.dynamic_update_slice(buffer, values, at)
    return buffer
