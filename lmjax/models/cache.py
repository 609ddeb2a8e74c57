"""Keys and values kept while decoding: one buffer a layer, slot = position in the row."""

import dataclasses

import jax
import jax.numpy as jnp

from lmjax.models.config import ModelConfig


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


def empty_cache(config: ModelConfig, *, batch_size: int, length: int) -> tuple[LayerCache, ...]:
    """Zeroed buffers for ``length`` positions of ``batch_size`` rows, one pair a layer, in the model's dtype.

    A tuple of separate buffers, rather than one stacked array, is updated in place when donated.
    """
    shape = (batch_size, length, config.kv_heads, config.key_width)
    return tuple(
        LayerCache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)) for _ in range(config.num_layers)
    )
