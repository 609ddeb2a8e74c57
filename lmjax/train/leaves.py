"""A state as named arrays: how they are stored, in which part of a checkpoint, and how two states are compared."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from lmjax.models.parameters import Leaves


def part_of(name: str) -> str:
    """Returns the part of a checkpoint that a leaf belongs to, given its name.

    It is ``"params"``, ``"ema"``, or ``"training"`` for everything that only a resumed run needs.
    """
    head = name.split(".", 1)[0]
    return head if head in ("params", "ema") else "training"


def by_part(leaves: Leaves) -> dict[str, Leaves]:
    """Returns the same leaves, grouped by :func:`part_of` their names."""
    parts: dict[str, Leaves] = {}
    for name, leaf in leaves.items():
        parts.setdefault(part_of(name), {})[name] = leaf
    return parts


def is_key(leaf: Any) -> bool:
    """Returns whether a leaf holds typed PRNG keys."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def storage(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns the shape, dtype and sharding with which a leaf is stored.

    Keys are stored as raw integers. A leaf without a sharding is put on the first device.
    """
    raw = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
    sharding = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=sharding)


def described(leaves: Leaves) -> dict[str, str]:
    """Returns each leaf's dtype and shape as text, like ``float32[2, 8]``."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}


def not_finite(leaves: Leaves) -> list[str]:
    """Returns the names of the leaves that hold NaN or infinity.

    The devices do the check, and only a boolean for each leaf comes to the host. Every process must call this.
    """
    groups: dict[Any, Leaves] = {}
    for name, leaf in leaves.items():
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            sharding = getattr(leaf, "sharding", None)
            devices = None if sharding is None else frozenset(sharding.device_set)
            groups.setdefault(devices, {})[name] = leaf
    bad: list[str] = []
    for group in groups.values():
        meshes = [
            leaf.sharding.mesh for leaf in group.values() if isinstance(getattr(leaf, "sharding", None), NamedSharding)
        ]
        everywhere = NamedSharding(meshes[0], PartitionSpec()) if meshes else None
        flags = jax.device_get(jax.jit(_all_finite, out_shardings=everywhere)(list(group.values())))
        bad += [name for name, finite in zip(group, flags, strict=True) if not finite]
    return bad


def _all_finite(arrays: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.all(jnp.isfinite(array)) for array in arrays])


def check_same(wanted: dict[str, str], saved: dict[str, str], folder: pathlib.Path) -> None:
    """Refuses a checkpoint whose leaves are not those of this run.

    Args:
      wanted: the leaves of this run, see :func:`described`.
      saved: the leaves of the checkpoint.
      folder: the folder of the checkpoint, for the message.

    Raises:
      ValueError: a leaf differs; the message names the first one and what it is on either side.
    """
    for name in [*wanted, *(name for name in saved if name not in wanted)]:
        there, here = saved.get(name, "absent"), wanted.get(name, "absent")
        if there != here:
            raise ValueError(
                f"{folder} is of another model or optimizer: {name} is {there} there and {here} here; "
                f"use the configuration that run was started with, or choose another run folder"
            )
