"""Multi-token prediction: torch's value, labels that stay in their document, and the chunked form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import losses
from lmjax.parallel.mesh import MeshConfig, make_mesh


def test_mean_over_heads_is_torch(oracle):
    for case in oracle("multi_token_mean_of_heads"):
        value = jax.jit(losses.multi_token_loss)(jnp.array(case["logits_per_head"]), np.array(case["labels"]))
        np.testing.assert_allclose(value, case["loss"], rtol=1e-6)


def test_labels_by_hand():
    labels, no = np.array([5, 6, 7, 8]), -100
    heads = losses.multi_token_labels(labels, 3)
    np.testing.assert_array_equal(heads, [[6, 7, 8, no], [7, 8, no, no], [8, no, no, no]])
    within = losses.multi_token_labels(labels, 3, segments=np.array([1, 1, 1, 2]))
    np.testing.assert_array_equal(within, [[6, 7, no, no], [7, no, no, no], [no] * 4])
    more_heads_than_tokens = losses.multi_token_labels(labels[:2], 3)
    np.testing.assert_array_equal(more_heads_than_tokens, [[6, no], [no, no], [no, no]])


@pytest.mark.parametrize("on_mesh", [False, True])
def test_the_chunked_form_is_the_same(on_mesh):
    num_heads, rows, length, width, vocab = 3, 8, 6, 8, 12
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (num_heads, rows, length, width))
    head = jax.random.normal(keys[1], (width, vocab))
    labels = jax.random.randint(keys[2], (rows, length), 0, vocab).at[0, 2:].set(-100)
    segments = jnp.broadcast_to(jnp.arange(length) // 3, labels.shape)  # the third head has nothing to say

    def plain(hidden, head):
        return losses.multi_token_loss(hidden @ head, labels, segments=segments)

    def chunked(hidden, head):
        return losses.linear_multi_token_loss(hidden, head, labels, segments=segments, chunk_size=5)

    expected = jax.device_get(jax.jit(jax.value_and_grad(plain, (0, 1)))(hidden, head))
    function = jax.jit(jax.value_and_grad(chunked, (0, 1)))
    if on_mesh:
        with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
            result = jax.device_get(function(hidden, head))
    else:
        result = jax.device_get(function(hidden, head))
    compare = functools.partial(np.testing.assert_allclose, atol=1e-6, rtol=1e-5)
    jax.tree.map(compare, result, expected)


def test_never_one_heads_logits_whole():
    num_heads, length, width, vocab = 4, 128, 8, 1024
    arguments = jnp.ones((num_heads, 1, length, width)), jnp.ones((width, vocab)), jnp.ones((1, length), int)

    def loss(hidden, head, labels):
        return losses.linear_multi_token_loss(hidden, head, labels, chunk_size=16)

    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arguments).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * length * vocab


def test_a_head_with_nothing_to_say_counts_as_zero():
    # Without jit: under it XLA makes 0 / 0 * weight a select, which would hide a NaN.
    hidden, head, labels = jnp.ones((2, 1, 2, 3)), jnp.zeros((3, 4)), np.array([[1, 2]])
    value = losses.linear_multi_token_loss(hidden, head, labels)
    np.testing.assert_allclose(value, np.log(4) / 2, rtol=1e-6)
    np.testing.assert_allclose(losses.multi_token_loss(hidden @ head, labels), value, rtol=1e-6)
