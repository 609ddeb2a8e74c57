"""Decides which results of a block are kept for the backward pass, and which are computed again."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint

from lmjax.parallel.mesh import constrain, current_platform, partition_spec

Remat = Literal["none", "dots", "products", "offload", "flash", "full"]

KERNEL = ("attention_output", "attention_log_sum")
"""Names of the results that the blocked attention backends need for their gradients
(:mod:`lmjax.kernels.attention`)."""
PRODUCTS = ("query", "key", "value", "attention_projection", "up", "gate")
"""Names of the results of a block's matrix products; queries and keys are taken after their rotation."""

HOSTED = ("query", "key", "value", "attention_output")
"""Names of the results that ``offload`` keeps in the memory of the host. The backward pass needs them only after that
of the feed-forward layer, during which they can come back."""

_POLICIES: dict[str, Callable[..., Any] | None] = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "products": jax.checkpoint_policies.save_only_these_names(*KERNEL, *PRODUCTS),
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[name for name in (*KERNEL, *PRODUCTS) if name not in HOSTED],
        names_which_can_be_offloaded=list(HOSTED),
        offload_src="device",
        offload_dst="pinned_host",
    ),
    "flash": jax.checkpoint_policies.save_only_these_names(*KERNEL),
    "full": None,
}


def named(array: jax.Array, name: str) -> jax.Array:
    """Returns the array with a name of :data:`PRODUCTS`, so that a policy can tell by the name whether to keep it."""
    assert name in PRODUCTS
    return checkpoint_name(array, name)


def in_order(stream_BTD: jax.Array) -> jax.Array:
    """Returns a residual stream, whose axes then lie in a TPU's memory in their order.

    The forward loop over the layers hands such arrays to the backward loop. If the compiler chose another order in one
    of the loops, it would copy the arrays of all layers between them.
    """
    stream_BTD = constrain(stream_BTD, "batch", "length", None)
    if current_platform() != "tpu":
        return stream_BTD

    def local(stream_BTD: jax.Array) -> jax.Array:
        return with_layout_constraint(stream_BTD, Layout((0, 1, 2)))

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return local(stream_BTD)
    # Outside of a shard_map, the compiler would gather the array for it.
    spec = partition_spec(("batch", "length", None), stream_BTD.shape, mesh)
    return jax.shard_map(local, in_specs=spec, out_specs=spec)(stream_BTD)


def rematerialised(body: Callable, remat: Remat, *, scanned: bool) -> Callable:
    """Returns ``body`` with a policy for what the backward pass computes again, see ``model.execution.remat``.

    Args:
      body: the function that runs a block.
      remat: the name of the policy.
      scanned: whether ``body`` is the body of a scan. If it is not, the compiler must be prevented from noticing that
        the second computation equals the first: it would keep the first result.
    """
    if remat == "none":
        return body
    return jax.checkpoint(body, prevent_cse=not scanned, policy=_POLICIES[remat])
