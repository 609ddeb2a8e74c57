import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from lmjax.parallel.mesh import MeshConfig, constrain, make_mesh, named_sharding, partition_spec


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
