"""Attention of one device over a part of the keys, with the log-sums that are needed to merge parts.

The softmax over all keys is the mean of those over parts of them, each weighted by ``exp(log-sum of the part - log-sum
of all)`` (Milakov & Gimelshein 2018). With the log-sums of all keys, the gradients are sums over parts (Dao et al.
2022, algorithm 4).

Each class wraps the pieces of a blocked backend. Its arrays stay in the layout of that backend, so that an array that
is used with several parts is converted once. In every layout a number of a query, such as its log-sum, is an array of
queries whose head width is 1.

Axes: Q blocks of queries of the chunked backend, I blocks of queries of the TPU kernels, R queries of such a block
times the query heads of a key-value head.
"""

import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from lmjax.kernels.attention import chunked_blocks, tpu, tpu_blocks, tpu_forward

NO_KEY = 1e30
"""The log-sum of all keys of a query that sees none of them: all its weights are then 0."""


class Part(NamedTuple):
    """A part of the keys.

    Attributes:
      key: keys, in the layout of the backend; S of them.
      value: values.
      start_BT: int32, for each query its first visible key of the part, in [0, S].
      end_BT: int32, one past the last one.
    """

    key: jax.Array
    value: jax.Array
    start_BT: jax.Array
    end_BT: jax.Array

    @property
    def is_visible(self) -> jax.Array:
        """Whether any query sees a key of it."""
        return jnp.any(self.start_BT < self.end_BT)


class PartialAttention(Protocol):
    """What one backend computes of a part of the keys; instances are hashable."""

    def to_queries(self, array_BTNH: jax.Array) -> jax.Array:
        """Converts an array of queries from [B, T, N, H] to the layout of the backend."""

    def from_queries(self, array: jax.Array, length: int) -> jax.Array:
        """Converts an array of queries to [B, T, N, H] with T of ``length``."""

    def to_keys(self, array_BSKH: jax.Array) -> jax.Array:
        """Converts keys or values from [B, S, K, H] to the layout of the backend."""

    def from_keys(self, array: jax.Array, length: int) -> jax.Array:
        """Converts keys or values to [B, S, K, H] with S of ``length``."""

    def forward(self, query: jax.Array, part: Part) -> tuple[jax.Array, jax.Array]:
        """Returns the output, in the query's dtype, and the natural log-sums, in float32: -inf without a visible key.

        Args:
          query: queries, in the layout of the backend.
          part: the keys.
        """

    def gradients(
        self, query: jax.Array, part: Part, *, log_sum: jax.Array, mean: jax.Array, grad_output: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns what the part adds to the gradients of queries (in their dtype), keys and values (in float32).

        Args:
          query: queries, in the layout of the backend.
          part: the keys.
          log_sum: float32, the log-sums over all keys, :data:`NO_KEY` of a query that sees none.
          mean: float32, for each query the sum of its output times the output's gradient.
          grad_output: gradient of the output over all keys.
        """


def merge(one: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns output and log-sums over the keys of two parts, given those of each; in float32 if one output is."""
    output, log_sum = one
    part_output, part_log_sum = other
    total = jnp.logaddexp(log_sum, part_log_sum)
    # Queries that have seen no key yet have a log-sum of -inf, and -inf - -inf is NaN.
    finite = jnp.where(total == -jnp.inf, 0.0, total)
    return output * jnp.exp(log_sum - finite) + part_output * jnp.exp(part_log_sum - finite), total


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartialChunked:
    """The loops of :mod:`~lmjax.kernels.attention.chunked_blocks`.

    Attributes:
      plan: the settings; ``dropout_rate`` is 0.
      num_kv_heads: K.
    """

    plan: chunked_blocks.Plan
    num_kv_heads: int

    def to_queries(self, array_BTNH: jax.Array) -> jax.Array:
        """See :class:`PartialAttention`, as for all methods."""
        return chunked_blocks.query_blocks(array_BTNH, self.num_kv_heads, self.plan.query_block)

    def from_queries(self, array: jax.Array, length: int) -> jax.Array:
        """Converts an array of queries back."""
        return chunked_blocks.from_query_blocks(array, length)

    def to_keys(self, array_BSKH: jax.Array) -> jax.Array:
        """Converts keys or values."""
        return chunked_blocks.key_heads(array_BSKH, self.plan.key_block)

    def from_keys(self, array: jax.Array, length: int) -> jax.Array:
        """Converts keys or values back."""
        return chunked_blocks.from_key_heads(array, length)

    def forward(self, query: jax.Array, part: Part) -> tuple[jax.Array, jax.Array]:
        """Returns output and log-sums."""
        rows = self._rows(part)
        output, log_sum_QBKGT = chunked_blocks.forward(self.plan, query, part.key, part.value, None, None, rows)
        sees_key_QBT = rows.start_QBT < rows.end_QBT
        log_sum_QBKGT = jnp.where(sees_key_QBT[:, :, None, None, :], log_sum_QBKGT, -jnp.inf)
        return output, log_sum_QBKGT[..., None]

    def gradients(
        self, query: jax.Array, part: Part, *, log_sum: jax.Array, mean: jax.Array, grad_output: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the gradients of queries, keys and values."""
        grad_query, grad_key, grad_value, _, _ = chunked_blocks.gradients(
            self.plan,
            query,
            part.key,
            part.value,
            None,
            None,
            self._rows(part),
            log_sum_QBKGT=log_sum[..., 0],
            mean_QBKGT=mean[..., 0],
            grad_output_QBKGTH=grad_output,
        )
        return grad_query, grad_key, grad_value

    def _rows(self, part: Part) -> chunked_blocks.QueryRows:
        bounds = (part.start_BT, part.end_BT)
        start_QBT, end_QBT = (chunked_blocks.split(bound_BT, self.plan.query_block) for bound_BT in bounds)
        return chunked_blocks.QueryRows(start_QBT=start_QBT, end_QBT=end_QBT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartialTpu:
    """The Pallas kernels of :mod:`~lmjax.kernels.attention.tpu`, whose log-sums have base 2.

    Attributes:
      plan: the settings.
      num_kv_heads: K.
      groups: query heads of a key-value head.
    """

    plan: tpu_blocks.Plan
    num_kv_heads: int
    groups: int

    def to_queries(self, array_BTNH: jax.Array) -> jax.Array:
        """See :class:`PartialAttention`, as for all methods."""
        return tpu.to_blocks(array_BTNH, self.num_kv_heads, self.plan.query_block)

    def from_queries(self, array: jax.Array, length: int) -> jax.Array:
        """Converts an array of queries back."""
        return tpu.from_blocks(array, self.plan.query_block, length)

    def to_keys(self, array_BSKH: jax.Array) -> jax.Array:
        """Converts keys or values."""
        return tpu.to_lanes(array_BSKH, self.plan.key_block)

    def from_keys(self, array: jax.Array, length: int) -> jax.Array:
        """Converts keys or values back."""
        return tpu.from_lanes(array, length)

    def forward(self, query: jax.Array, part: Part) -> tuple[jax.Array, jax.Array]:
        """Returns output and log-sums."""
        key, value, start_BT, end_BT = part
        ranges, bounds = tpu.bounds_of(self.plan, start_BT, end_BT, key.shape[3], groups=self.groups)
        without_sinks_K1R = jnp.full((self.num_kv_heads, 1, query.shape[4]), tpu_blocks.HIDDEN)
        output, log_sum_BKI1R = tpu_forward.forward(self.plan, ranges, query, key, value, *bounds, without_sinks_K1R)
        sees_key_BKI1R = log_sum_BKI1R < tpu_forward.NO_KEY
        return output, jnp.where(sees_key_BKI1R, log_sum_BKI1R / tpu_blocks.LOG2_E, -jnp.inf)

    def gradients(
        self, query: jax.Array, part: Part, *, log_sum: jax.Array, mean: jax.Array, grad_output: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the gradients of queries, keys and values."""
        grad_query, grad_key, grad_value, _ = tpu.gradients(
            self.plan,
            query,
            *part,
            log_sum_BKI1R=log_sum * tpu_blocks.LOG2_E,
            mean_BKI1R=mean,
            grad_output_BKIHR=grad_output,
            key_dtype=jnp.dtype(jnp.float32),
        )
        return grad_query, grad_key, grad_value


def partial_chunked(
    query_BTNH: jax.Array, key_BSKH: jax.Array, *, scale: float, softcap: float | None, block: int = 128
) -> PartialChunked:
    """Returns the chunked backend for queries and keys of these shapes, in blocks of ``block`` positions."""
    plan = chunked_blocks.Plan(
        scale=scale,
        softcap=softcap,
        dropout_rate=0.0,
        query_block=min(block, query_BTNH.shape[1]),
        key_block=min(block, key_BSKH.shape[1]),
    )
    return PartialChunked(plan=plan, num_kv_heads=key_BSKH.shape[2])


def partial_tpu(
    query_BTNH: jax.Array, key_BSKH: jax.Array, *, scale: float, softcap: float | None, interpret: bool = False
) -> PartialTpu:
    """Returns the TPU backend for queries and keys of these shapes; ``interpret`` runs it without a TPU."""
    (_, num_queries, num_heads, _), (_, num_keys, num_kv_heads, _) = query_BTNH.shape, key_BSKH.shape
    groups = num_heads // num_kv_heads
    plan = tpu.plan_of(num_queries, num_keys, groups=groups, scale=scale, softcap=softcap, interpret=interpret)
    return PartialTpu(plan=plan, num_kv_heads=num_kv_heads, groups=groups)
