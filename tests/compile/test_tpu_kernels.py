"""The Pallas kernels compiled for the chips they are meant for, without one (`make test-tpu`)."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lmjax import masks
from lmjax.compile.topology import open_topology, prepare_environment
from lmjax.kernels.attention.position_bias import RelativeBias
from lmjax.kernels.attention.tpu import tpu_attention
from lmjax.kernels.grouped_tpu import product
from lmjax.parallel.mesh import MeshConfig, make_mesh

pytestmark = pytest.mark.tpu

CHIPS = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")
CASES = {
    "grouped": ((1024, 8, 2, 128), {}),
    "dropout, bias": ((512, 4, 4, 64), {"dropout_rate": 0.1, "bias": True}),
    "grouped, bias": ((1024, 4, 2, 64), {"bias": True}),
}


@pytest.fixture(scope="module")
def compiled():
    """Compiles a function for one chip, with arrays of these shapes and dtypes."""
    prepare_environment()

    def compile_for(chip, function, *arrays):
        mesh = make_mesh(MeshConfig(), devices=open_topology(chip).devices[:1])
        whole = NamedSharding(mesh, PartitionSpec())
        with jax.set_mesh(mesh):
            placed = [jax.ShapeDtypeStruct(shape, dtype, sharding=whole) for shape, dtype in arrays]
            return jax.jit(function).lower(*placed).compile().as_text()

    return compile_for


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("case", CASES)
def test_attention_forward_and_backward(case, chip, compiled):
    (length, num_heads, num_kv_heads, width), options = CASES[case]

    def loss(query, key, value, table, segments):
        bias = RelativeBias(table_RN=table, max_distance=128, past_only=True) if options.get("bias") else None
        rate = options.get("dropout_rate", 0.0)
        mask = masks.packed(segments)
        attention = functools.partial(tpu_attention, mask=mask, scale=width**-0.5, position_bias=bias)
        output = attention(query, key, value, dropout_rate=rate, key=jax.random.key(0))
        return jnp.sum(output.astype(jnp.float32) ** 2)

    keys = ((2, length, num_kv_heads, width), jnp.bfloat16)
    arrays = (((2, length, num_heads, width), jnp.bfloat16), keys, keys, ((32, num_heads), jnp.float32))
    text = compiled(chip, jax.grad(loss, argnums=(0, 1, 2, 3)), *arrays, ((2, length), jnp.int32))
    assert "interval_attention_forward" in text and "interval_attention_backward" in text
    assert f"{length},{length}]" not in text


@pytest.mark.parametrize("chip", CHIPS)
def test_products_of_experts_forward_and_backward(chip, compiled):
    def loss(rows, weight, sizes):
        return jnp.sum(product(rows, weight, sizes).astype(jnp.float32) ** 2)

    arrays = (((640, 256), jnp.bfloat16), ((4, 256, 1408), jnp.bfloat16), ((4,), jnp.int32))
    text = compiled(chip, jax.grad(loss, argnums=(0, 1)), *arrays)
    # No product of all rows with every expert.
    assert text.count("tpu_custom_call") >= 3 and "4,640,1408]" not in text
