"""Attention over rows that are split over devices: keys and values go round, queries stay (Liu et al. 2023).

Each device computes its queries against the keys it has, while it sends these keys to the next device and receives
those of the one before. After n - 1 passes it has seen all keys, and never held more than two parts of them. The
partial results are merged by their log-sums. In the backward pass keys and values go round once more, and the sums of
their gradients go with them, one device behind, until they are home.

A part of which no query of a device sees a key is passed on without being looked at. Under a causal mask rows are in
zig-zag order meanwhile, see :mod:`~lmjax.kernels.attention.row_parts`; under a sliding window of w positions keys stop
after ``ceil((w - 1) / (T / n))`` passes.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from lmjax.kernels.attention.on_mesh import on_mesh
from lmjax.kernels.attention.partial import NO_KEY, Part, PartialAttention, merge
from lmjax.kernels.attention.row_parts import RowParts
from lmjax.masks import IntervalMask
from lmjax.parallel.mesh import mesh_axes_of, ways


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ring:
    """The settings that are known when the function is compiled.

    Attributes:
      parts: what each device holds.
      num_visits: how many devices' keys each device looks at, its own first.
      partial: the backend.
      num_keys: of one device.
    """

    parts: RowParts
    num_visits: int
    partial: PartialAttention
    num_keys: int

    def part(
        self, step: jax.Array | int, arrays: tuple[jax.Array, jax.Array], start_BT: jax.Array, end_BT: jax.Array
    ) -> Part:
        """Returns the keys and values that are here at a step, those of ``step`` devices before, with their bounds."""
        owner = (lax.axis_index(self.parts.axis) - step) % self.parts.size
        places = functools.partial(self.parts.places, device=owner, length=self.num_keys)
        key, value = arrays
        return Part(key, value, places(start_BT), places(end_BT))


def rows_are_split(num_queries: int, num_keys: int) -> bool:
    """Whether the mesh that is set splits rows of queries and rows of keys of these lengths."""
    return min(ways("length", num_queries), ways("length", num_keys)) > 1


def ring_attention(
    query_BTNH: jax.Array,
    key_BSKH: jax.Array,
    value_BSKH: jax.Array,
    mask: IntervalMask,
    *,
    sinks_N: jax.Array | None = None,
    partial: Callable[[jax.Array, jax.Array], PartialAttention],
) -> jax.Array:
    """Returns the attention output [B, T, N, H], on a mesh that splits rows; no device holds all keys of a row.

    Each device sends and receives about (n - 1) / n of the keys and values of a row, and in the backward pass these and
    their gradients in float32. Zig-zag order costs one exchange more of a part of queries, keys, values and output, and
    the same of their gradients.

    Args:
      query_BTNH: queries; the mesh splits T.
      key_BSKH: keys; the mesh splits S.
      value_BSKH: values.
      mask: which keys each query sees.
      sinks_N: one more logit for each head, without a value.
      partial: makes the backend, given the queries and the keys of one device.
    """
    (axis,) = mesh_axes_of("length")
    size = jax.sharding.get_abstract_mesh().shape[axis]
    assert rows_are_split(query_BTNH.shape[1], key_BSKH.shape[1])
    is_even = query_BTNH.shape[1] % (2 * size) == 0 and key_BSKH.shape[1] % (2 * size) == 0
    parts = RowParts(axis=axis, size=size, zigzag=is_even and _is_lopsided(mask))

    # A sink of -inf takes no share.
    sinks_N = jnp.full(query_BTNH.shape[2:3], -jnp.inf) if sinks_N is None else sinks_N.astype(jnp.float32)

    def local(query_BTNH, key_BSKH, value_BSKH, start_BT, end_BT, sinks_N):
        ring = _Ring(
            parts=parts,
            num_visits=num_visits(mask.window, size=size, num_keys=key_BSKH.shape[1]),
            partial=partial(query_BTNH, key_BSKH),
            num_keys=key_BSKH.shape[1],
        )
        operands = (parts.spread(array) for array in (query_BTNH, key_BSKH, value_BSKH, start_BT, end_BT))
        return parts.collect(_attention(ring, *operands, sinks_N))

    return on_mesh(local, query_BTNH, key_BSKH, value_BSKH, mask, sinks_N, splits_length=True, splits_keys=True)


def _is_lopsided(mask: IntervalMask) -> bool:
    """Whether later queries may see more keys than earlier ones."""
    return mask.window is None and mask.kind in ("causal", "packed_causal", "interval")


def num_visits(window: int | None, *, size: int, num_keys: int) -> int:
    """Returns how many devices' keys the queries of a device can see at most, its own among them.

    Args:
      window: of a causal mask, how many keys a query sees, itself included.
      size: number of devices.
      num_keys: of one device; they are neighbours.
    """
    return size if window is None else min(size, 1 - (1 - window) // num_keys)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(ring: _Ring, query_BTNH, key_BSKH, value_BSKH, start_BT, end_BT, sinks_N):
    return _forward(ring, query_BTNH, key_BSKH, value_BSKH, start_BT, end_BT, sinks_N)[0]


def _forward(ring: _Ring, query_BTNH, key_BSKH, value_BSKH, start_BT, end_BT, sinks_N):
    partial, parts = ring.partial, ring.parts
    query = checkpoint_name(partial.to_queries(query_BTNH), "query")
    key = checkpoint_name(partial.to_keys(key_BSKH), "key")
    value = checkpoint_name(partial.to_keys(value_BSKH), "value")

    def visit(step, arrays, merged):
        part = ring.part(step, arrays, start_BT, end_BT)

        def attend(merged):
            return merge(merged, partial.forward(query, part))

        return lax.cond(part.is_visible, attend, lambda merged: merged, merged)

    def visit_and_pass_on(carry, step):
        arrays, merged = carry
        return (parts.passed_on(arrays), visit(step, arrays, merged)), None

    # The result before any key: a sink acts as a part of the keys with this log-sum, and the value 0.
    log_sum_BTN1 = jnp.broadcast_to(sinks_N[None, None, :, None], (*query_BTNH.shape[:3], 1))
    output_BTNH = jnp.zeros((*query_BTNH.shape[:3], value_BSKH.shape[-1]), jnp.float32)
    carry = ((key, value), (partial.to_queries(output_BTNH), partial.to_queries(log_sum_BTN1)))
    (arrays, merged), _ = lax.scan(visit_and_pass_on, carry, jnp.arange(ring.num_visits - 1))
    output, log_sum = visit(ring.num_visits - 1, arrays, merged)

    output_BTNH = partial.from_queries(output.astype(query_BTNH.dtype), query_BTNH.shape[1])
    # If a rematerialisation policy keeps these two arrays, the ring need not turn once more in the backward pass.
    output_BTNH = checkpoint_name(output_BTNH, "attention_output")
    log_sum = checkpoint_name(jnp.where(log_sum == -jnp.inf, NO_KEY, log_sum), "attention_log_sum")
    return output_BTNH, (query, key, value, start_BT, end_BT, sinks_N, output_BTNH, log_sum)


def _backward(ring: _Ring, residuals, grad_output_BTNH):
    query, key, value, start_BT, end_BT, sinks_N, output_BTNH, log_sum = residuals
    partial, parts, num_queries = ring.partial, ring.parts, output_BTNH.shape[1]
    mean_BTN1 = jnp.sum(output_BTNH.astype(jnp.float32) * grad_output_BTNH, axis=-1, keepdims=True)
    by_query = {
        "log_sum": log_sum,
        "mean": partial.to_queries(mean_BTN1),
        "grad_output": partial.to_queries(grad_output_BTNH),
    }

    def visit(step, arrays, grad_query):
        part = ring.part(step, arrays, start_BT, end_BT)

        def differentiate(grad_query):
            added, *grads = partial.gradients(query, part, **by_query)
            return grad_query + added, tuple(grads)

        def pass_by(grad_query):
            return grad_query, tuple(jnp.zeros(array.shape, jnp.float32) for array in arrays)

        return lax.cond(part.is_visible, differentiate, pass_by, grad_query)

    def visit_and_pass_on(carry, step):
        arrays, grad_query, grads = carry
        # What comes in are the sums of the keys that are here now. Both passes can go on while the device computes.
        grads, following = parts.passed_on(grads), parts.passed_on(arrays)
        grad_query, added = visit(step, arrays, grad_query)
        return (following, grad_query, tuple(map(jnp.add, grads, added))), None

    grad_query, grads = visit(0, (key, value), jnp.zeros(query.shape, jnp.float32))
    if ring.num_visits > 1:
        carry = (parts.passed_on((key, value)), grad_query, grads)
        (_, grad_query, grads), _ = lax.scan(visit_and_pass_on, carry, jnp.arange(1, ring.num_visits))
        grads = parts.passed_on(grads, steps=1 - ring.num_visits)

    log_sum_BTN1 = partial.from_queries(log_sum, num_queries)
    grad_sinks_N = -jnp.sum(jnp.exp(sinks_N[None, None, :, None] - log_sum_BTN1) * mean_BTN1, axis=(0, 1, 3))
    grad_key_BSKH, grad_value_BSKH = (
        partial.from_keys(grad.astype(array.dtype), ring.num_keys)
        for grad, array in zip(grads, (key, value), strict=True)
    )
    grad_query_BTNH = partial.from_queries(grad_query.astype(query.dtype), num_queries)
    return grad_query_BTNH, grad_key_BSKH, grad_value_BSKH, None, None, grad_sinks_N


_attention.defvjp(_forward, _backward)
