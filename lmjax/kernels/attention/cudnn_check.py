"""Checks cuDNN's packed form on this machine's GPU, before attention is left to it without anybody having asked for it.

A wrong reading of where documents begin would let tokens see other documents, and nothing would fail. So the first
time that ``"auto"`` could take the packed form, a small batch is computed by it and by dense attention.
"""

import functools
import threading
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lmjax import masks
from lmjax.kernels.attention.cudnn_packed import packed_attention
from lmjax.kernels.attention.xla import xla_attention

LENGTHS = ((40, 17, 7), (1, 62, 1))
"""The documents of the two rows."""
TOLERANCE = 0.05
"""The largest difference of 16-bit outputs and gradients, over the largest value; a key too many makes it ten times
as large."""


@functools.cache
def packed_is_right(*, heads: tuple[int, int], width: int, dtype: str, kind: str, window: int | None) -> bool:
    """Returns whether outputs and gradients of the packed form are those of dense attention; warns once if not.

    It runs in a thread of its own, outside of any trace and mesh.

    Args:
      heads: N and K, the numbers of query heads and of key heads.
      width: H.
      dtype: of queries, keys and values.
      kind: ``packed_causal`` or ``packed_full``.
      window: of a windowed mask, else None.
    """
    found: list[str | None] = []

    def check() -> None:
        try:
            found.append(_difference(heads, width, dtype, kind, window))
        except Exception as error:
            found.append(f"it ended with {type(error).__name__}: {str(error)[:200]}")

    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    if found[0] is not None:
        warnings.warn(
            f"cuDNN's packed attention is not used, because on this machine {found[0]}: attention of packed rows will "
            f"be slower (model.execution.attention='cudnn' takes it nevertheless)",
            stacklevel=2,
        )
    return found[0] is None


def _difference(heads: tuple[int, int], width: int, dtype: str, kind: str, window: int | None) -> str | None:
    """Returns what differs from dense attention; None if nothing does."""
    segments_BT = jnp.asarray([np.repeat(np.arange(1, len(row) + 1), row) for row in LENGTHS], jnp.int32)
    mask = masks.packed(segments_BT, "causal" if kind == "packed_causal" else "bidirectional")
    mask = mask if window is None else masks.windowed(mask, min(window, 16))
    random = np.random.default_rng(0)
    shape, (num_heads, num_kv_heads) = segments_BT.shape, heads
    query, key, value, weight = (
        jax.device_put(jnp.asarray(random.normal(size=(*shape, number, width)), dtype), jax.local_devices()[0])
        for number in (num_heads, num_kv_heads, num_kv_heads, num_heads)
    )

    def dense(query, key, value, *, mask=mask, scale=width**-0.5):
        index_1T = jnp.arange(shape[1], dtype=jnp.int32)[None, :]
        options = dict.fromkeys(("softcap", "position_bias", "sinks_N", "key"))
        return xla_attention(query, key, value, mask, scale=scale, query_index_BT=index_1T, dropout_rate=0.0, **options)

    def packed(query, key, value):
        return packed_attention(query, key, value, mask, scale=width**-0.5, otherwise=dense)

    def all_of(attention: Callable) -> dict[str, np.ndarray]:
        def total(*arrays):
            out = attention(*arrays)
            return jnp.sum(out.astype(jnp.float32) * weight), out

        (_, out), grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(query, key, value)
        parts = {"its output": out, "the gradient of the queries": grads[0]}
        parts |= {"the gradient of the keys": grads[1], "the gradient of the values": grads[2]}
        return {name: np.asarray(part, np.float32) for name, part in parts.items()}

    right, ours = all_of(dense), all_of(packed)
    for name, expected in right.items():
        error = np.max(np.abs(ours[name] - expected)) / np.max(np.abs(expected))
        if not error <= TOLERANCE:
            return f"{name} differs from that of dense attention by {error:.2g} of its largest value"
    return None
