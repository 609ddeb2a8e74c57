"""Attention biases that are a function of where query and key stand, computed block by block.

A bias is a pytree of parameters with one method, so that a kernel can build the part of it that it
needs, and differentiate through it, without an [N, T, S] array.
"""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp


class PositionBias(Protocol):
    """What :func:`lmjax.kernels.attention.attend` adds to the logits.

    An implementation is a registered pytree whose leaves are floating-point arrays with the heads
    on their last axis (``slopes_N``, ``table_RN``): tensor parallelism splits that axis.
    """

    def block(self, query_index_BT: jax.Array, key_index_BS: jax.Array) -> jax.Array:
        """The bias [B, N, T, S] of these queries against these keys; either index may have B = 1."""


def alibi_slopes(num_heads: int) -> list[float]:
    """The slopes of ALiBi (Press et al. 2022, section 3): ``2 ** (-8 i / N)`` for i = 1 ... N.

    Where N is no power of two, the slopes of the next lower power come first, and every second
    slope of the next higher power fills up, as in the authors' code.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    finer = [2.0 ** (-4 * (2 * i + 1) / power) for i in range(num_heads - power)]
    return slopes + finer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class AlibiBias:
    """ALiBi: ``-slope * |query index - key index|``, a fixed slope a head.

    Attributes:
      slopes_N: float32, positive; :func:`alibi_slopes` gives the paper's.
    """

    slopes_N: jax.Array

    def block(self, query_index_BT: jax.Array, key_index_BS: jax.Array) -> jax.Array:
        """See :class:`PositionBias`."""
        distance_BTS = jnp.abs(query_index_BT[:, :, None] - key_index_BS[:, None, :])
        return -self.slopes_N[None, :, None, None] * distance_BTS[:, None].astype(self.slopes_N.dtype)
