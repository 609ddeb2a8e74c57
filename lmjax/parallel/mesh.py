"""The device mesh, and the one table that says on which mesh axes a logical axis is laid out.

Every parameter and activation names its axes (``("embed", "mlp")``); :data:`RULES` turns the names
into mesh axes. Data parallelism, fully sharded parameters and tensor parallelism are then three
sizes of one mesh, and the model's code holds no device placement at all.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")

RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
}
"""Logical axis to mesh axes; a name that is not listed (``"layers"``, ``"head_dim"``) is replicated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes; their product is the number of devices."""

    data: int = -1
    """Replicas of the model, each with its share of the batch; -1 takes the devices the others leave."""
    fsdp: int = 1
    """Ways parameters and optimizer state are split; these devices share the batch as well."""
    tensor: int = 1
    """Ways each matrix multiplication is split over heads, feed-forward and vocabulary."""

    def __post_init__(self):
        for name in MESH_AXES:
            size = getattr(self, name)
            if size < 1 and not (name == "data" and size == -1):
                raise ValueError(f"mesh.{name}={size}: must be at least 1" + (", or -1" if name == "data" else ""))

    def sizes(self, num_devices: int) -> tuple[int, int, int]:
        """The three sizes, ``data=-1`` resolved.

        Raises:
          ValueError: the sizes do not multiply to the number of devices.
        """
        model_ways = self.fsdp * self.tensor
        data = num_devices // model_ways if self.data == -1 else self.data
        if data * model_ways != num_devices:
            raise ValueError(
                f"mesh: data={self.data} x fsdp={self.fsdp} x tensor={self.tensor} does not make the "
                f"{num_devices} devices there are: change mesh.data, mesh.fsdp or mesh.tensor"
            )
        return data, self.fsdp, self.tensor


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a run, over all devices of all processes unless ``devices`` are given."""
    devices = jax.devices() if devices is None else devices
    sizes = config.sizes(len(devices))
    # Explicit is the default axis type of every jax we support; the model is written for Auto.
    return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices)


def mesh_axes_of(logical_axis: str | None) -> tuple[str, ...]:
    """Mesh axes a logical axis is laid out on; empty when it is replicated."""
    return RULES.get(logical_axis, ()) if logical_axis is not None else ()


def partition_spec(logical_axes: Sequence[str | None], shape: Sequence[int], mesh) -> PartitionSpec:
    """The layout of an array whose axes have these logical names.

    A dimension its mesh axes do not divide, or whose mesh axes an earlier dimension took, is
    replicated (jax drops or refuses such a constraint, depending on its version).

    Args:
      logical_axes: one name (or ``None``) for each dimension.
      shape: the array's shape.
      mesh: a ``Mesh`` or ``AbstractMesh``.
    """
    assert len(logical_axes) == len(shape), (logical_axes, shape)
    taken: set[str] = set()
    entries: list[tuple[str, ...] | None] = []
    for logical_axis, size in zip(logical_axes, shape, strict=True):
        axes = tuple(a for a in mesh_axes_of(logical_axis) if mesh.shape[a] > 1)
        ways = math.prod(mesh.shape[a] for a in axes)
        fits = bool(axes) and size % ways == 0 and not taken & set(axes)
        entries.append(axes if fits else None)
        taken |= set(axes) if fits else set()
    return PartitionSpec(*entries)


def named_sharding(logical_axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """:func:`partition_spec` on a concrete mesh."""
    return NamedSharding(mesh, partition_spec(logical_axes, shape, mesh))


def constrain(array: jax.Array, *logical_axes: str | None) -> jax.Array:
    """Pins the layout of an activation inside ``jit``; does nothing when no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return array
    return jax.lax.with_sharding_constraint(array, partition_spec(logical_axes, array.shape, mesh))
