"""Makes matrices orthogonal by matrix products only, many at a time and divided over the devices.

Axes: S matrices of a stack, M rows, N columns.
"""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""The coefficients a, b, c of the quintic of Jordan et al. (2024). It is steep at 0, so that five steps bring singular
values near to 1."""
_SMALLEST_NORM = 1e-12
Arithmetic = Literal["auto", "bfloat16", "float32"]


def newton_schulz(matrices_SMN: jax.Array, *, steps: int, dtype: str) -> jax.Array:
    """Returns the nearly orthogonal factor of each matrix, ``U V^T`` of ``U diag(s) V^T``, in float32 [S, M, N].

    The iteration begins with ``X = G / ||G||``; each step is ``X <- a X + (b A + c A A) X`` where ``A = X X^T``. A step
    does not change U and V, and it maps each singular value s to ``a s + b s^3 + c s^5``. After five steps the singular
    values are about 0.7 to 1.2.

    Args:
      matrices_SMN: the matrices; M must be at most N, so that A is the smaller of the two possible products.
      steps: the number of steps.
      dtype: the dtype of the products.
    """
    return _iterated(_of_norm_one(matrices_SMN, dtype), steps).astype(jnp.float32)


def _of_norm_one(matrices_SMN: jax.Array, dtype: str) -> jax.Array:
    """Returns each matrix divided by its Frobenius norm, so that no singular value is above 1."""
    wide = matrices_SMN.astype(jnp.float32)
    norm = jnp.linalg.norm(wide, axis=(1, 2), keepdims=True)
    return (wide / jnp.maximum(norm, _SMALLEST_NORM)).astype(dtype)


def _iterated(x_SMN: jax.Array, steps: int) -> jax.Array:
    """Returns the result of the iteration; it is computed in the dtype of its input."""
    a, b, c = COEFFICIENTS
    product = partial(jnp.matmul, precision="highest" if x_SMN.dtype == jnp.float32 else None)

    def step(_: jax.Array, x_SMN: jax.Array) -> jax.Array:
        gram_SMM = product(x_SMN, x_SMN.swapaxes(1, 2))
        return a * x_SMN + product(b * gram_SMM + c * product(gram_SMM, gram_SMM), x_SMN)

    return jax.lax.fori_loop(0, steps, step, x_SMN)


def orthogonalized(stacks: Sequence[jax.Array], *, steps: int, arithmetic: Arithmetic) -> list[jax.Array]:
    """Returns each stack [S, M, N] with its matrices made orthogonal by :func:`newton_schulz`.

    Matrices of one shape, or of that shape transposed, are processed together. So there are few loops to compile, and
    many matrices to divide over the devices. Each device has whole matrices, so no product waits for another device.

    Args:
      stacks: stacks of any sizes.
      steps: the number of steps of the iteration.
      arithmetic: the dtype of its products; ``auto`` is float32 on CPUs, which are slow in bfloat16, and bfloat16
        elsewhere.
    """
    results: dict[int, jax.Array] = {}
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, stack in enumerate(stacks):
        groups.setdefault(tuple(sorted(stack.shape[1:])), []).append(place)
    for places in groups.values():
        of_group = [stacks[place] for place in places]
        if arithmetic == "auto":
            of_type = {name: partial(_together, steps=steps, dtype=name) for name in ("float32", "bfloat16")}
            done = jax.lax.platform_dependent(*of_group, cpu=of_type["float32"], default=of_type["bfloat16"])
        else:
            done = _together(*of_group, steps=steps, dtype=arithmetic)
        results |= dict(zip(places, done, strict=True))
    return [results[place] for place in range(len(stacks))]


def _together(*stacks: jax.Array, steps: int, dtype: str) -> list[jax.Array]:
    """Returns stacks with their matrices made orthogonal together; all matrices have one shape or its transpose."""
    # The cast comes first, so that the data that move between devices are half as large in bfloat16.
    wide = [_wide(_of_norm_one(stack, dtype)) for stack in stacks]
    done = _iterated(_over_devices(jnp.concatenate(wide)), steps)
    starts = itertools.accumulate((len(stack) for stack in stacks), initial=0)
    parts = [done[start : start + len(stack)] for start, stack in zip(starts, stacks, strict=False)]
    shaped = [p if p.shape == stack.shape else p.swapaxes(1, 2) for p, stack in zip(parts, stacks, strict=True)]
    return [part.astype(jnp.float32) for part in shaped]


def _wide(stack_SMN: jax.Array) -> jax.Array:
    """Returns the matrices, or their transposes if the matrices have more rows than columns."""
    return stack_SMN if stack_SMN.shape[1] <= stack_SMN.shape[2] else stack_SMN.swapaxes(1, 2)


def _over_devices(stack_SMN: jax.Array) -> jax.Array:
    """Returns the stack with the same number of whole matrices on each device; matrices of zeros fill it up."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return stack_SMN
    axes = tuple(axis for axis, size in mesh.shape.items() if size > 1)
    missing = -len(stack_SMN) % math.prod(mesh.shape[axis] for axis in axes)
    padded = jnp.pad(stack_SMN, ((0, missing), (0, 0), (0, 0)))
    return jax.lax.with_sharding_constraint(padded, PartitionSpec(axes))
