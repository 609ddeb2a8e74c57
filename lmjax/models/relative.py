"""T5's table of relative positions, a parameter of a stack or of each of its layers.

Axes: R buckets of distances.
"""

import jax
from flax import nnx

from lmjax.kernels.attention.position_bias import RelativeBias
from lmjax.models.config import ModelConfig
from lmjax.models.layers import parameter


def relative_table(config: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Param:
    """Returns the initial table [buckets, heads]."""
    table_RN = config.base_std * jax.random.normal(rngs.params(), (config.relative_buckets, config.num_heads))
    return parameter(table_RN, ("buckets", "heads"), "position")


def relative_bias(config: ModelConfig, table_RN: jax.Array) -> RelativeBias:
    """Returns the bias that a table adds to the attention logits."""
    return RelativeBias(
        table_RN=table_RN, max_distance=config.relative_max_distance, past_only=config.relative_past_only
    )
