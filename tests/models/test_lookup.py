from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.models.lookup import rows_of
from lmjax.parallel.mesh import MeshConfig, make_mesh, named_sharding

LAYOUTS = {
    "data=8": MeshConfig(data=8),
    "fsdp=8": MeshConfig(fsdp=8),
    "data=2 fsdp=4": MeshConfig(data=2, fsdp=4),
    "data=2 fsdp=2 tensor=2": MeshConfig(data=2, fsdp=2, tensor=2),
    "fsdp=2 expert=2 context=2": MeshConfig(fsdp=2, expert=2, context=2),
}


def plain(table_VD, ids):
    """The rows of a table, by a product."""
    return jax.nn.one_hot(jnp.clip(ids, 0, len(table_VD) - 1), len(table_VD)) @ table_VD


def value_and_gradient(function, table_VD, ids, cotangent):
    value, back = jax.vjp(lambda table_VD: function(table_VD, ids), table_VD)
    return value, *back(cotangent)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "gradient"), [((8, 4), "step"), ((8, 4), "microbatch"), ((1, 4), "step"), ((8,), "step")]
)
def test_rows_and_gradient_are_the_same_on_every_mesh(layout, shape, gradient):
    table_key, ids_key, cotangent_key = jax.random.split(jax.random.key(0), 3)
    table_VD = jax.random.normal(table_key, (6, 16))
    # Ids out of range take the nearest row; many ids occur on several devices.
    ids = jax.random.randint(ids_key, shape, -1, 8)
    cotangent = jax.random.normal(cotangent_key, (*shape, 16))
    expected = value_and_gradient(plain, table_VD, ids, cotangent)
    mesh = make_mesh(LAYOUTS[layout], jax.devices()[:8])
    with jax.set_mesh(mesh):
        split = jax.device_put(table_VD, named_sharding(("vocab", "embed"), table_VD.shape, mesh))
        function = partial(value_and_gradient, partial(rows_of, gradient=gradient))
        found = jax.jit(function)(split, ids, cotangent)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_inside_a_shard_map_each_device_looks_up_in_what_it_is_given():
    mesh = make_mesh(MeshConfig(data=8), jax.devices()[:8])
    table_VD, ids = jnp.arange(12.0).reshape(4, 3), jnp.arange(8) % 4
    spec = jax.sharding.PartitionSpec("data")
    with jax.set_mesh(mesh):
        found = jax.jit(jax.shard_map(lambda ids: rows_of(table_VD, ids), in_specs=spec, out_specs=spec))(ids)
    np.testing.assert_array_equal(found, table_VD[ids])
