"""Products of sorted rows with the matrices of their groups on TPUs, by the Pallas kernels of jax (megablox).

XLA's own gradient of ``jax.lax.ragged_dot`` for the matrices multiplies every row with every group, under a mask. These
kernels visit the tiles of rows that belong to a group, in all three products.

Axes: S rows, sorted by group, D and F their widths, E groups.
"""

import importlib

import jax

from lmjax.parallel.mesh import current_platform

ROWS = 128
"""The number of rows is a multiple of this."""
MOST_ROWS = 512
WIDTHS = range(1024, 511, -128)
"""Widths of a tile to choose from."""


@jax.custom_vjp
def product(rows_SD: jax.Array, weight_EDF: jax.Array, size_E: jax.Array) -> jax.Array:
    """Returns ``rows W_g`` [S, F] in the dtype of the rows, with the matrix of each row's group; sums are float32.

    Rows after those of the last group have undefined values, in the output and in the gradient of the rows.

    Args:
      rows_SD: group after group; S is a multiple of :data:`ROWS`.
      weight_EDF: a matrix for each group.
      size_E: int32, the number of rows of each group; their sum is at most S.
    """
    return _forward(rows_SD, weight_EDF, size_E)[0]


def _forward(rows_SD: jax.Array, weight_EDF: jax.Array, size_E: jax.Array):
    tiling = _tiling(len(rows_SD), *weight_EDF.shape[1:])
    out_SF = _kernels().gmm(rows_SD, weight_EDF, size_E, rows_SD.dtype, tiling, interpret=_interpret())
    return out_SF, (rows_SD, weight_EDF, size_E)


def _backward(residuals, grad_SF: jax.Array):
    rows_SD, weight_EDF, size_E = residuals
    number, width_in, width_out = weight_EDF.shape
    grad_rows_SD = _kernels().gmm(
        grad_SF,
        weight_EDF,
        size_E,
        rows_SD.dtype,
        _tiling(len(rows_SD), width_out, width_in),
        transpose_rhs=True,
        interpret=_interpret(),
    )
    grad_weight_EDF = _kernels().tgmm(
        rows_SD.T,
        grad_SF,
        size_E,
        weight_EDF.dtype,
        _tiling(len(rows_SD), width_in, width_out),
        num_actual_groups=number,
        interpret=_interpret(),
    )
    return grad_rows_SD, grad_weight_EDF, None


product.defvjp(_forward, _backward)


def _kernels():
    """Returns jax's module, which is loaded when it is needed: it takes long, and is of use on TPUs only."""
    # The package has a function of the same name.
    return importlib.import_module("jax.experimental.pallas.ops.tpu.megablox.gmm")


def _interpret() -> bool:
    return current_platform() != "tpu"


def _tiling(num_rows: int, summed: int, kept: int) -> tuple[int, int, int]:
    """Returns the sizes of a tile: rows, the width that is summed over, and the width of the result."""
    rows = next(size for size in (MOST_ROWS, MOST_ROWS // 2, ROWS) if num_rows % size == 0)
    return rows, _tile(summed), _tile(kept)


def _tile(width: int) -> int:
    """Returns the width of a tile that covers ``width`` with the least rest, the largest of several."""
    if width <= WIDTHS[0]:
        return width
    return min(WIDTHS, key=lambda size: (-(-width // size) * size, -size))
