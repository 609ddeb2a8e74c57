"""Matrices made orthogonal by products alone, many at a time and divided over the devices.

Axes: S matrices of a stack, M rows, N columns.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""The quintic of Jordan et al. (2024). It is steep at 0, so that five steps bring singular values near to 1."""
_SMALLEST_NORM = 1e-12
Arithmetic = Literal["auto", "bfloat16", "float32"]


def newton_schulz(matrices_SMN: jax.Array, *, steps: int, dtype: str) -> jax.Array:
    """Returns the nearly orthogonal factor of each matrix, ``U V^T`` of ``U diag(s) V^T``, in float32 [S, M, N].

    With ``X = G / ||G||``, each step is ``X <- a X + (b A + c A A) X`` where ``A = X X^T``. It leaves U and V as
    they are and takes each singular value to ``a s + b s^3 + c s^5``. After five steps they are about 0.7 to 1.2.

    Args:
      matrices_SMN: M at most N, so that A is the smaller of the two products.
      steps: how often.
      dtype: arithmetic of the products.
    """
    a, b, c = COEFFICIENTS
    wide = matrices_SMN.astype(jnp.float32)
    norm = jnp.linalg.norm(wide, axis=(1, 2), keepdims=True)
    product = partial(jnp.matmul, precision="highest" if dtype == "float32" else None)

    def step(_: jax.Array, x_SMN: jax.Array) -> jax.Array:
        gram_SMM = product(x_SMN, x_SMN.swapaxes(1, 2))
        return a * x_SMN + product(b * gram_SMM + c * product(gram_SMM, gram_SMM), x_SMN)

    x_SMN = (wide / jnp.maximum(norm, _SMALLEST_NORM)).astype(dtype)
    return jax.lax.fori_loop(0, steps, step, x_SMN).astype(jnp.float32)


def orthogonalized(stacks: Sequence[jax.Array], *, steps: int, arithmetic: Arithmetic) -> list[jax.Array]:
    """Returns each stack [S, M, N] with its matrices made orthogonal by :func:`newton_schulz`.

    Matrices of one shape, or of that shape transposed, are worked on together: few loops to compile, and many matrices
    to divide over the devices, each of which has whole ones. No product then waits for another device.

    Args:
      stacks: of any sizes.
      steps: of the iteration.
      arithmetic: of its products; ``auto`` is float32 on CPUs, which are slow in bfloat16, and bfloat16 elsewhere.
    """
    results: dict[int, jax.Array] = {}
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, stack in enumerate(stacks):
        groups.setdefault(tuple(sorted(stack.shape[1:])), []).append(place)
    for places in groups.values():
        together = _over_devices(jnp.concatenate([_wide(stacks[place]) for place in places]))
        if arithmetic == "auto":
            of_type = {name: partial(newton_schulz, steps=steps, dtype=name) for name in ("float32", "bfloat16")}
            done = jax.lax.platform_dependent(together, cpu=of_type["float32"], default=of_type["bfloat16"])
        else:
            done = newton_schulz(together, steps=steps, dtype=arithmetic)
        start = 0
        for place in places:
            stack = stacks[place]
            part = done[start : start + len(stack)]
            results[place] = part if part.shape == stack.shape else part.swapaxes(1, 2)
            start += len(stack)
    return [results[place] for place in range(len(stacks))]


def _wide(stack_SMN: jax.Array) -> jax.Array:
    """The matrices, or where they are taller than wide their transposes."""
    return stack_SMN if stack_SMN.shape[1] <= stack_SMN.shape[2] else stack_SMN.swapaxes(1, 2)


def _over_devices(stack_SMN: jax.Array) -> jax.Array:
    """As many whole matrices on each device; zeros fill up to a multiple."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return stack_SMN
    axes = tuple(axis for axis, size in mesh.shape.items() if size > 1)
    missing = -len(stack_SMN) % math.prod(mesh.shape[axis] for axis in axes)
    padded = jnp.pad(stack_SMN, ((0, missing), (0, 0), (0, 0)))
    return jax.lax.with_sharding_constraint(padded, PartitionSpec(axes))
