"""What the backward pass keeps of a block, and what it computes again."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.ad_checkpoint import checkpoint_name

Remat = Literal["none", "dots", "products", "flash", "full"]

KERNEL = ("attention_output", "attention_log_sum")
"""What the blocked attention backends keep for their own gradients (:mod:`lmjax.kernels.attention`)."""
PRODUCTS = ("query", "key", "value", "attention_projection", "up", "gate")
"""Results of a block's matrix products, the first two after their rotation."""

_POLICIES: dict[str, Callable[..., Any] | None] = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "products": jax.checkpoint_policies.save_only_these_names(*KERNEL, *PRODUCTS),
    "flash": jax.checkpoint_policies.save_only_these_names(*KERNEL),
    "full": None,
}


def named(array: jax.Array, name: str) -> jax.Array:
    """Returns the array under a name of :data:`PRODUCTS`, by which a policy may keep it."""
    assert name in PRODUCTS
    return checkpoint_name(array, name)


def rematerialised(body: Callable, remat: Remat, *, scanned: bool) -> Callable:
    """Returns ``body`` with the policy of ``model.execution.remat``.

    Args:
      body: what runs a block.
      remat: the policy's name.
      scanned: whether it is the body of a scan. Elsewhere the compiler would find the second computation equal to the
        first, and keep the first, if it were not prevented.
    """
    if remat == "none":
        return body
    return jax.checkpoint(body, prevent_cse=not scanned, policy=_POLICIES[remat])
