"""What is kept while decoding, layer by layer: keys and values (slot = position in the row), or a state."""

import dataclasses

import jax
import jax.numpy as jnp

from lmjax.models.config import ModelConfig
from lmjax.models.recurrent import Mixer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer, [B, S, K, H] each."""

    key_BSKH: jax.Array
    value_BSKH: jax.Array

    def write(self, key_BTKH: jax.Array, value_BTKH: jax.Array, slots_BT: jax.Array) -> "LayerCache":
        """The cache with new keys and values at ``slots_BT``; rows may stand at different lengths."""
        row_B1 = jnp.arange(slots_BT.shape[0])[:, None]

        def put(buffer: jax.Array, new: jax.Array) -> jax.Array:
            return buffer.at[row_B1, slots_BT].set(new.astype(buffer.dtype), mode="drop")

        return LayerCache(put(self.key_BSKH, key_BTKH), put(self.value_BSKH, value_BTKH))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RecurrentCache:
    """State [B, N, H, P] (float32) of one recurrent layer, and the few last tokens its convolution sees [B, W, C]."""

    state_BNHP: jax.Array
    last_BWC: jax.Array


Cache = LayerCache | RecurrentCache


def empty_cache(config: ModelConfig, *, batch_size: int, length: int) -> tuple[Cache, ...]:
    """Zeroed buffers for ``length`` positions of ``batch_size`` rows, one set a layer, in the model's dtype.

    A tuple of separate buffers, rather than one stacked array, is updated in place when donated.
    """

    def layer(mixer: Mixer) -> Cache:
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
