"""The order in memory of what a scan over layers keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lmjax.models import remat
from lmjax.parallel.mesh import MeshConfig, make_mesh


@pytest.fixture
def on_tpu(monkeypatch):
    monkeypatch.setattr(remat, "current_platform", lambda: "tpu")


def test_a_stream_is_laid_out_where_it_is(on_tpu):
    """Eight devices send each other nothing for it, and value and gradient stay as they are."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, context=2))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "context"))
    stream_BTD = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 8)), jnp.float32)

    def total(stream_BTD):
        return jnp.sum(remat.in_order(2 * stream_BTD) ** 2)

    with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(total), in_shardings=rows, out_shardings=rows)
        lowered = step.lower(stream_BTD)
        grad_BTD = step(stream_BTD)
    assert lowered.as_text().count("LayoutConstraint") == 2  # forward and backward
    assert "all-gather" not in lowered.compile().as_text()
    np.testing.assert_array_equal(grad_BTD, 8 * stream_BTD)
    np.testing.assert_array_equal(jax.jit(jax.grad(total))(stream_BTD), 8 * stream_BTD)
