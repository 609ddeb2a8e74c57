"""Rows split over devices by their positions: the same numbers, and no row gathered but keys and values."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.kernels.attention.dispatch import attend
from lmjax.models.execution import ExecutionConfig
from lmjax.models.latent import LatentConfig
from lmjax.objectives import PrefixLM
from lmjax.parallel.mesh import MeshConfig, flatten_tokens, make_mesh, unflatten_tokens
from lmjax.types import make_stream

MODEL = dataclasses.replace(tiny.MODEL, num_kv_heads=2, num_heads=4, head_width=8, windows=(None, 7))
MESH = MeshConfig(data=2, tensor=2, context=2)


@pytest.mark.parametrize("backend", ["xla", "chunked"])
def test_attention_is_that_of_one_device_in_value_and_gradient(backend):
    rng = np.random.default_rng(0)
    query = jnp.asarray(rng.normal(size=(4, 16, 4, 8)), jnp.float32)
    key, value = (jnp.asarray(rng.normal(size=(4, 16, 2, 8)), jnp.float32) for _ in range(2))
    segments = jnp.asarray(tiny.segments([[5, 11], [16], [3, 3, 4], [9, 7]], 16))
    mask = make_stream(segments, segments, "causal").mask

    def loss(query, key, value):
        return jnp.sum(attend(query, key, value, mask, backend=backend) ** 3)

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    alone = gradient(query, key, value)
    with jax.set_mesh(make_mesh(MESH)):
        split = gradient(query, key, value)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), alone, split)


@pytest.mark.long
def test_training_is_that_of_one_device():
    model = dataclasses.replace(MODEL, execution=ExecutionConfig(attention="chunked"))
    reference = tiny.train_losses(tiny.learner(PrefixLM(), model=model), steps=4)
    built = tiny.learner(PrefixLM(), model=model, mesh=MESH, num_devices=8, microbatches=2)
    np.testing.assert_allclose(tiny.train_losses(built, steps=4), reference, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": None, "latent": LatentConfig(rank=6, rope_width=4)}])
def test_steps_by_ring_are_those_of_one_device(changes):
    model = dataclasses.replace(MODEL, windows=(None,), num_layers=1, **changes)
    ring = dataclasses.replace(model, execution=ExecutionConfig(context="ring"))
    built = tiny.learner(model=ring, mesh=MeshConfig(data=1, tensor=2, context=4), num_devices=8)
    # The second loss is that of the first step's update.
    np.testing.assert_allclose(
        tiny.train_losses(built, steps=2), tiny.train_losses(tiny.learner(model=model), steps=2), atol=1e-5
    )


def test_flattening_moves_no_token_and_is_undone():
    array = jnp.arange(4 * 6 * 3).reshape(4, 6, 3)
    with jax.set_mesh(make_mesh(MESH)):
        rows = jax.jit(flatten_tokens)(array)
        back = jax.jit(lambda array: unflatten_tokens(flatten_tokens(array), 4, 6))(array)
    # Device (0, 0) of data x context: the first half of rows 0 and 1.
    np.testing.assert_array_equal(rows[:6], array[:2, :3].reshape(6, 3))
    np.testing.assert_array_equal(back, array)


def test_only_keys_and_values_are_gathered_over_the_context():
    """No all-gather in the compiled forward pass makes hidden states of whole rows."""
    one_head = {"num_heads": 1, "num_kv_heads": 1, "head_width": 8, "width": 64, "windows": (None,), "num_layers": 1}
    model = dataclasses.replace(MODEL, execution=ExecutionConfig(attention="chunked"), **one_head)
    built = tiny.learner(model=model, mesh=MeshConfig(data=1, context=4), num_devices=4)
    arguments = built.abstract_state.params, tiny.random_rows(33, num_rows=2), jax.random.key(0), None
    with jax.set_mesh(built.mesh):
        compiled = built.eval_step.lower(*arguments).compile()
    gathered = set(re.findall(r"f32\[([\d,]+)\]\S* all-gather\(", compiled.as_text()))
    # [B, S, K, H], or without the axis of its one head.
    assert gathered and gathered <= {"2,32,1,8", "2,32,8"}
