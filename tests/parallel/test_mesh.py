import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from lmjax.parallel.mesh import MeshConfig, arrange, constrain, make_mesh, named_sharding, partition_spec


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


@pytest.mark.parametrize(
    ("config", "devices", "sizes"),
    [
        (MeshConfig(), 8, (8, 1, 1, 1, 1)),
        (MeshConfig(fsdp=4), 8, (2, 4, 1, 1, 1)),
        (MeshConfig(data=2, fsdp=2, tensor=2), 8, (2, 2, 1, 2, 1)),
        (MeshConfig(expert=4), 8, (2, 1, 4, 1, 1)),
        (MeshConfig(data=1, fsdp=1, tensor=1), 1, (1, 1, 1, 1, 1)),
    ],
)
def test_sizes_multiply_to_the_devices(config, devices, sizes):
    assert config.sizes(devices) == sizes


def test_mesh_takes_every_device_once(mesh):
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "expert": 1, "tensor": 2, "context": 1}
    assert {device.id for device in mesh.devices.flat} == {device.id for device in jax.devices()}


def tpu_slices(*shape: int, num_slices: int = 1) -> list[types.SimpleNamespace]:
    """What jax tells of the chips of some slices of TPU v5p."""
    coordinates = [coords for _ in range(num_slices) for coords in np.ndindex(*shape)]
    chips = len(coordinates) // num_slices
    return [
        types.SimpleNamespace(
            id=number, platform="tpu", device_kind="TPU v5", coords=coords, core_on_chip=0,
            process_index=number // 4, slice_index=number // chips,
        )
        for number, coords in enumerate(coordinates)
    ]  # fmt: skip


def test_axes_that_the_torus_has_not_are_parts_of_its_own():
    devices = tpu_slices(4, 4, 4)
    with pytest.raises(NotImplementedError):
        jax.make_mesh((8, 8), ("data", "fsdp"), devices=devices)
    array = arrange(MeshConfig(fsdp=8), devices)
    assert array.shape == (8, 8, 1, 1, 1) and {d.id for d in array.flat} == set(range(64))
    for group in array.reshape(8, 8):
        # A box of 4 x 2 chips, whose neighbours are linked.
        spans = np.ptp([device.coords for device in group], axis=0)
        assert sorted(spans + 1) == [1, 2, 4]
    assert arrange(MeshConfig(fsdp=2, tensor=8), tpu_slices(4, 4, 4)).shape == (4, 2, 1, 8, 1)
    assert arrange(MeshConfig(fsdp=64), tpu_slices(4, 4, 4)).shape == (1, 64, 1, 1, 1)


def test_slices_are_replicas():
    array = arrange(MeshConfig(fsdp=4), tpu_slices(2, 2, 2, num_slices=2))
    assert array.shape == (4, 4, 1, 1, 1)
    assert [{device.slice_index for device in row.flat} for row in array] == [{0}, {0}, {1}, {1}]
    with pytest.raises(ValueError, match="mesh.data=1 is not a multiple of the 2 slices"):
        arrange(MeshConfig(fsdp=16), tpu_slices(2, 2, 2, num_slices=2))


def test_a_model_may_be_split_over_machines_with_gpus():
    gpus = [
        types.SimpleNamespace(id=number, platform="gpu", device_kind="H100", slice_index=number // 8)
        for number in range(16)
    ]
    assert [device.id for device in arrange(MeshConfig(fsdp=16), gpus).flat] == [*range(16)]


@pytest.mark.parametrize("config", [MeshConfig(data=3), MeshConfig(fsdp=3), MeshConfig(fsdp=16)])
def test_sizes_that_do_not_make_the_devices_are_refused(config):
    with pytest.raises(ValueError, match=r"mesh: data=.* the 8 devices there are"):
        config.sizes(8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fsdp": 0}, "mesh.fsdp=0: must be at least 1$"),
        ({"tensor": -1}, "mesh.tensor=-1: must be at least 1$"),
        ({"data": 0}, "mesh.data=0: must be at least 1, or -1$"),
    ],
)
def test_impossible_sizes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MeshConfig(**fields)


@pytest.mark.parametrize(
    ("axes", "shape", "spec"),
    [
        (("embed", "mlp"), (8, 16), (("fsdp",), ("tensor",))),
        (("batch", None, "embed"), (8, 5, 6), (("data", "fsdp"), None, None)),
        (("vocab", "embed"), (10, 6), (("tensor",), ("fsdp",))),
        (("layers", "embed", "heads", "head_dim"), (3, 4, 2, 7), (None, ("fsdp",), ("tensor",), None)),
        # What does not divide is replicated, the dimension beside it is not.
        (("embed", "mlp"), (7, 16), (None, ("tensor",))),
        (("batch", "vocab"), (6, 8), (None, ("tensor",))),
        # A mesh axis is used once: the first dimension has it.
        (("heads", "mlp"), (4, 4), (("tensor",), None)),
        ((), (), ()),
    ],
)
def test_partition_spec(mesh, axes, shape, spec):
    assert partition_spec(axes, shape, mesh) == PartitionSpec(*spec)


def test_mesh_axes_of_size_one_are_not_named():
    mesh = make_mesh(MeshConfig(data=8))
    assert partition_spec(("batch", "embed"), (8, 8), mesh) == PartitionSpec(("data",), None)


def test_named_sharding_splits_as_the_spec_says(mesh):
    array = jax.device_put(jnp.zeros((8, 16)), named_sharding(("embed", "mlp"), (8, 16), mesh))
    assert {shard.data.shape for shard in array.addressable_shards} == {(4, 8)}


def test_constrain_does_nothing_without_a_mesh():
    array = jnp.arange(8.0)
    assert constrain(array, "batch") is array
    jaxpr = jax.make_jaxpr(lambda x: constrain(x, "batch"))(array)
    assert not jaxpr.eqns


def test_constrain_pins_the_layout_under_a_mesh(mesh):
    array = jnp.arange(64.0).reshape(8, 8)
    with jax.set_mesh(mesh):
        result = jax.jit(lambda x: constrain(x * 2, "batch", "mlp"))(array)
    wanted = named_sharding(("batch", "mlp"), (8, 8), mesh)
    assert result.sharding.is_equivalent_to(wanted, 2)
    assert {shard.data.shape for shard in result.addressable_shards} == {(2, 4)}
    assert jnp.array_equal(result, array * 2)


def test_constrain_replicates_what_does_not_divide(mesh):
    with jax.set_mesh(mesh):
        result = jax.jit(lambda x: constrain(x * 2, "batch", "mlp"))(jnp.ones((6, 8)))
    assert {shard.data.shape for shard in result.addressable_shards} == {(6, 4)}
