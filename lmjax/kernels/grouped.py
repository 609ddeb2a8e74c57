"""Products of rows with one of several matrices each: rows are sorted by group, and each group is one product.

There are two layouts of the rows. The first puts group after group. Its product is ``jax.lax.ragged_dot`` (method
``"ragged"``, for GPUs) or made by kernels for TPUs (``"tiled"``, :mod:`lmjax.kernels.grouped_tpu`). The second, of the
method ``"blocked"``, starts every group at a multiple of a block and multiplies block by block: XLA's CPU backend
computes a ragged product densely, every row with every matrix (measured: 8 matrices cost 10 times as much).

Axes: E groups, R rows to sort, S slots, M blocks of C slots each, N rows that are copied to J slots each.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from lmjax.kernels import grouped_tpu
from lmjax.parallel.mesh import current_platform

Method = Literal["ragged", "tiled", "blocked"]

METHODS: dict[str, Method] = {"cpu": "blocked", "tpu": "tiled"}
"""The method of a platform, ``"ragged"`` for others."""


@dataclasses.dataclass(frozen=True)
class Groups:
    """A layout in which the rows of a group are together: E groups, R rows, S slots, M blocks.

    Attributes:
      slot_R: int32 slot of each row; ``num_slots`` for rows of no group.
      num_slots: S, at least R.
      method: how rows and matrices are multiplied.
      size_E: rows of each group, unless the method is ``"blocked"``.
      group_M: group of each block, if it is.
    """

    slot_R: jax.Array
    num_slots: int
    method: Method
    size_E: jax.Array | None = None
    group_M: jax.Array | None = None

    def multiply(self, rows_SD: jax.Array, weight_EDF: jax.Array, bias_EF: jax.Array | None = None) -> jax.Array:
        """Returns ``rows W_g + b_g`` with the matrix of each slot's group; the values of empty slots are undefined."""
        if self.group_M is None:
            assert self.size_E is not None
            product = grouped_tpu.product if self.method == "tiled" else jax.lax.ragged_dot
            out_SF = product(rows_SD, weight_EDF, self.size_E)
            if bias_EF is None:
                return out_SF
            group_S = jnp.repeat(
                jnp.arange(len(bias_EF), dtype=jnp.int32), self.size_E, total_repeat_length=self.num_slots
            )
            return out_SF + bias_EF[group_S]
        rows_MCD = rows_SD.reshape(len(self.group_M), -1, rows_SD.shape[-1])
        out_MCF = jnp.einsum("mcd,mdf->mcf", rows_MCD, weight_EDF[self.group_M])
        if bias_EF is not None:
            out_MCF = out_MCF + bias_EF[self.group_M][:, None, :]
        return out_MCF.reshape(self.num_slots, -1)


def group_rows(group_R: jax.Array, num_groups: int, *, method: Method | None = None) -> Groups:
    """Sorts rows by group, keeping their order within one.

    Args:
      group_R: int32 group of each row; those not from 0 to ``num_groups - 1`` are of no group.
      num_groups: E.
      method: the layout, see the module; chosen for the platform when unset.
    """
    if method is None:
        method = METHODS.get(current_platform(), "ragged")
    num_rows = len(group_R)
    is_grouped_R = (group_R >= 0) & (group_R < num_groups)
    group_R = jnp.where(is_grouped_R, group_R, num_groups)
    size_E = jnp.zeros((num_groups,), jnp.int32).at[group_R].add(1, mode="drop")
    order_R = jnp.argsort(group_R, stable=True)
    sorted_slot_R = jnp.zeros_like(order_R).at[order_R].set(jnp.arange(num_rows, dtype=order_R.dtype))
    if method != "blocked":
        num_slots = num_rows + (-num_rows % grouped_tpu.ROWS if method == "tiled" else 0)
        return Groups(jnp.where(is_grouped_R, sorted_slot_R, num_slots), num_slots, method, size_E=size_E)
    block = _block_size(num_rows, num_groups)
    num_blocks = (num_rows + num_groups * (block - 1)) // block
    end_E = jnp.cumsum(-(-size_E // block))
    first_slot_E = block * (end_E - -(-size_E // block))
    within_E = first_slot_E - (jnp.cumsum(size_E) - size_E)
    slot_R = sorted_slot_R + within_E.at[group_R].get(mode="clip")
    group_M = jnp.searchsorted(end_E, jnp.arange(num_blocks, dtype=end_E.dtype), side="right")
    slot_R = jnp.where(is_grouped_R, slot_R, num_blocks * block)
    return Groups(slot_R, num_blocks * block, method, group_M=jnp.minimum(group_M, num_groups - 1))


def _block_size(num_rows: int, num_groups: int) -> int:
    """Returns a quarter of the mean group, at most 128: on average half a block stays empty in each group."""
    return 2 ** (min(128, max(1, num_rows // (4 * num_groups))).bit_length() - 1)


def to_slots(rows_ND: jax.Array, slot_NJ: jax.Array, num_slots: int) -> jax.Array:
    """Copies each row to its J slots, [S, D]; empty slots are 0, and slots from ``num_slots`` on are left out."""
    index_NJ = jnp.broadcast_to(jnp.arange(len(rows_ND), dtype=jnp.int32)[:, None], slot_NJ.shape)
    row_S = jnp.full((num_slots,), len(rows_ND), jnp.int32).at[slot_NJ].set(index_NJ, mode="drop")
    return jnp.take(rows_ND, row_S, axis=0, mode="fill", fill_value=0)


def from_slots(rows_SD: jax.Array, slot_NJ: jax.Array, weights_NJ: jax.Array) -> jax.Array:
    """Returns the weighted sum over each row's slots, [N, D] in float32; a slot beyond the last counts as 0."""
    rows_NJD = jnp.take(rows_SD, slot_NJ, axis=0, mode="fill", fill_value=0)
    return jnp.einsum("njd,nj->nd", rows_NJD.astype(jnp.float32), weights_NJ)
