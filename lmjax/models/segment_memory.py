"""Rows that remember the row before them: segment-level recurrence (Transformer-XL: Dai et al. 2019, section 3.2).

Layer l attends to ``[stop_gradient(memory_l), x_l]``, where memory_l are the last M states that entered the layer in
the rows before. Positions must be relative (rotary, ALiBi, buckets, or none), because the memory has the positions
before 0.

Axes: M positions before the row, S positions before the row and of it.
"""

import dataclasses

import jax
import jax.numpy as jnp

from lmjax.masks import IntervalMask
from lmjax.models.config import ModelConfig
from lmjax.models.hidden import Hidden
from lmjax.models.layers import split_key
from lmjax.models.routing import joined
from lmjax.models.transformer import Transformer
from lmjax.types import Stream


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentMemory:
    """The memory of each row, layer by layer.

    Attributes:
      states_BLMD: the last M states that entered each layer, the newest last.
      filled_B: int32, how many of the M states have been filled.
    """

    states_BLMD: jax.Array
    filled_B: jax.Array


def empty_memory(config: ModelConfig, *, num_rows: int, length: int) -> SegmentMemory:
    """Returns an empty memory, for the first row."""
    shape = (num_rows, config.num_layers, length, config.width)
    return SegmentMemory(states_BLMD=jnp.zeros(shape, config.dtype), filled_B=jnp.zeros((num_rows,), jnp.int32))


def run_with_memory(
    model: Transformer, tokens_BT: jax.Array, memory: SegmentMemory, *, key: jax.Array | None = None
) -> tuple[Hidden, SegmentMemory]:
    """Runs a model on rows that continue the rows of a memory.

    Layers are unrolled, so compile time grows with depth.

    Args:
      model: a single stack of attention layers without learned positions.
      tokens_BT: int32 ids.
      memory: the memory of the rows before; no gradient flows into it.
      key: PRNG key of dropout; None turns dropout off.

    Returns:
      The states after the final norm with their routing, and the memory after these rows.
    """
    length = tokens_BT.shape[1]
    num_kept = memory.states_BLMD.shape[2]
    index_1T = jnp.arange(length, dtype=jnp.int32)[None, :]
    start_B1 = (num_kept - memory.filled_B)[:, None]
    mask = IntervalMask(
        start_BT=jnp.broadcast_to(start_B1, tokens_BT.shape),
        end_BT=jnp.broadcast_to(num_kept + index_1T + 1, tokens_BT.shape),
    )
    embed_key, run_key = split_key(key, 2)
    positions_BT = jnp.broadcast_to(index_1T, tokens_BT.shape)
    stream = Stream(tokens_BT=tokens_BT, positions_BT=positions_BT, mask=mask)
    x_BTD = model.embed(stream, key=embed_key)
    entered, routings = [], []
    layers = model.layers()
    for layer, (block, block_key) in enumerate(zip(layers, split_key(run_key, len(layers)), strict=True)):
        entered.append(x_BTD)
        before_BMD = jax.lax.stop_gradient(memory.states_BLMD[:, layer])
        hidden = model.run_block(block, x_BTD, positions_BT, mask, layer=layer, before_BMD=before_BMD, key=block_key)
        x_BTD = hidden.states_BTD
        routings.append(hidden.routing)
    states_BLTD = jnp.stack(entered, axis=1).astype(memory.states_BLMD.dtype)
    line_BLSD = jnp.concatenate([memory.states_BLMD, states_BLTD], axis=2)
    kept = SegmentMemory(
        states_BLMD=line_BLSD[:, :, length:],
        filled_B=jnp.minimum(memory.filled_B + length, num_kept),
    )
    return Hidden(model.normalised(x_BTD), joined(routings)), kept
