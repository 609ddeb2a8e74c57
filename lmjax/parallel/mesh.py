"""The device mesh, and the table that maps each logical axis to mesh axes.

Every parameter and activation names its axes (``("embed", "mlp")``); :data:`RULES` turns the names
into mesh axes. Data parallelism, fully sharded parameters, expert, tensor and context parallelism are then sizes of
one mesh, and the model's code contains no placement on devices.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "expert", "tensor", "context")

RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp", "expert"),
    "routed_batch": ("data", "fsdp"),
    "experts": ("expert",),
    "length": ("context",),
    "tokens": ("data", "fsdp", "expert", "context"),
    "embed": ("fsdp",),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
}
"""Logical axis to mesh axes; a name that is not listed (``"layers"``, ``"head_dim"``) is replicated.

``"routed_batch"`` is the axis of rows whose tokens are on the devices of their experts. A change between it and
``"batch"`` is the all-to-all of expert parallelism.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes; their product is the number of devices."""

    data: int = -1
    """Number of replicas of the model, each with its share of the batch; -1 uses all devices that are left."""
    fsdp: int = 1
    """Number of parts into which parameters and optimizer state are split; these devices share the batch as well."""
    expert: int = 1
    """Number of parts into which the experts are split; these devices share the batch and exchange tokens."""
    tensor: int = 1
    """Number of parts into which heads, feed-forward and vocabulary of each matrix product are split."""
    context: int = 1
    """Number of parts into which the positions of each row are split; for attention, devices exchange keys and values
    (`model.execution.context`)."""

    def __post_init__(self):
        for name in MESH_AXES:
            size = getattr(self, name)
            if size < 1 and not (name == "data" and size == -1):
                raise ValueError(f"mesh.{name}={size}: must be at least 1" + (", or -1" if name == "data" else ""))

    def sizes(self, num_devices: int) -> tuple[int, ...]:
        """Returns the size of each of ``MESH_AXES``, with ``data=-1`` replaced by its value.

        Raises:
          ValueError: the sizes do not multiply to the number of devices.
        """
        model_ways = math.prod(getattr(self, name) for name in MESH_AXES[1:])
        data = num_devices // model_ways if self.data == -1 else self.data
        if data * model_ways != num_devices:
            product = " x ".join(f"{name}={getattr(self, name)}" for name in MESH_AXES)
            raise ValueError(
                f"mesh: {product} does not make the {num_devices} devices there are: change "
                f"{', '.join(f'mesh.{name}' for name in MESH_AXES[:-1])} or mesh.{MESH_AXES[-1]}"
            )
        return data, *(getattr(self, name) for name in MESH_AXES[1:])


def current_platform() -> str:
    """Returns the platform of the mesh that is set, or of this process's devices where none is: "cpu", "gpu", "tpu".

    A program may be compiled for devices that are not here; their mesh says what they are.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        return jax.default_backend()
    return getattr(device, "platform", None) or (
        "tpu" if device.device_kind.startswith("TPU") else jax.default_backend()
    )


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of a run, over all devices of all processes unless ``devices`` are given."""
    array = arrange(config, jax.devices() if devices is None else devices)
    # The default axis type is Explicit in all supported versions of jax; the model is written for Auto.
    return Mesh(array, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def arrange(config: MeshConfig, devices: Sequence[jax.Device]) -> np.ndarray:
    """Returns the devices as an array with an axis for each of ``MESH_AXES``, with near devices as neighbours.

    A slice of TPUs is a torus. An axis of the mesh uses whole axes of the torus if the sizes allow it, else a part of
    one (8 on 4 x 4 x 4), which ``jax.make_mesh`` refuses. Several slices, between which the network is slower, become
    replicas.

    Raises:
      ValueError: the sizes do not multiply to the number of devices, or ``data`` cannot be divided over the slices.
    """
    sizes = config.sizes(len(devices))
    num_slices = len({getattr(device, "slice_index", None) for device in devices})
    # For jax every machine with GPUs is a slice, too, but parameters may well be split over several machines.
    if num_slices == 1 or devices[0].platform != "tpu":
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    data, *model_ways = sizes
    if data % num_slices:
        raise ValueError(
            f"mesh.data={data} is not a multiple of the {num_slices} slices: a slice holds whole replicas of the "
            f"model; change mesh.data, mesh.fsdp, mesh.expert, mesh.tensor or mesh.context"
        )
    return mesh_utils.create_hybrid_device_mesh(
        (data // num_slices, *model_ways),
        (num_slices, *(1 for _ in model_ways)),
        devices,
        allow_split_physical_axes=True,
    )


def mesh_axes_of(logical_axis: str | None) -> tuple[str, ...]:
    """Returns the mesh axes of a logical axis; empty if it is replicated."""
    return RULES.get(logical_axis, ()) if logical_axis is not None else ()


def partition_spec(
    logical_axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """Returns the layout of an array whose axes have these logical names.

    A dimension is replicated if its mesh axes do not divide it, or if an earlier dimension already uses them (jax
    drops or refuses such a constraint, depending on its version).

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


def axes_of(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns the mesh axes of one dimension of a PartitionSpec, which writes a single axis without a tuple."""
    return () if entry is None else (entry,) if isinstance(entry, str) else entry


def named_sharding(logical_axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Returns the :func:`partition_spec` on a concrete mesh."""
    return NamedSharding(mesh, partition_spec(logical_axes, shape, mesh))


def constrain(array: jax.Array, *logical_axes: str | None) -> jax.Array:
    """Fixes the layout of an activation inside ``jit``; does nothing if no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return array
    return jax.lax.with_sharding_constraint(array, partition_spec(logical_axes, array.shape, mesh))


def ways(logical_axis: str, size: int) -> int:
    """Returns the number of parts into which the current mesh splits a dimension of this size and name."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return 1
    parts = math.prod(mesh.shape.get(axis, 1) for axis in mesh_axes_of(logical_axis))
    return parts if size % parts == 0 else 1


def flatten_tokens(array: jax.Array) -> jax.Array:
    """Reshapes [B, T, ...] to [N, ...] so that no token changes its device; :func:`unflatten_tokens` is the inverse.

    If rows are also split over devices by positions, the tokens of a device follow each other, not those of a row. A
    plain reshape would first gather every row.
    """
    batch, length, *rest = array.shape
    batch_ways, length_ways = ways("batch", batch), ways("length", length)
    if length_ways == 1:
        return array.reshape(batch * length, *rest)
    parts = array.reshape(batch_ways, batch // batch_ways, length_ways, length // length_ways, *rest)
    return constrain(parts.swapaxes(1, 2).reshape(batch * length, *rest), "tokens", *(None,) * len(rest))


def unflatten_tokens(array: jax.Array, batch: int, length: int) -> jax.Array:
    """The inverse of :func:`flatten_tokens`."""
    _, *rest = array.shape
    batch_ways, length_ways = ways("batch", batch), ways("length", length)
    if length_ways == 1:
        return array.reshape(batch, length, *rest)
    parts = array.reshape(batch_ways, length_ways, batch // batch_ways, length // length_ways, *rest)
    return constrain(parts.swapaxes(1, 2).reshape(batch, length, *rest), "batch", "length", *(None,) * len(rest))
