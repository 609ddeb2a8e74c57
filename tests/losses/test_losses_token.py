"""Token losses against hand values and torch's own, under every transform and on a mesh."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lmjax import losses
from lmjax.parallel.mesh import MeshConfig, make_mesh

OPTIONS = ("label_smoothing", "z_loss", "smoothing", "ignore_index")
CROSS_ENTROPY = jax.jit(losses.cross_entropy, static_argnames=OPTIONS)
CAUSAL = jax.jit(losses.causal_lm_loss)
MASKED = jax.jit(losses.masked_lm_loss)


def test_hand_values():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    targets = np.array([0, 2])
    np.testing.assert_allclose(CROSS_ENTROPY(logits, targets), [math.log(2), -math.log(0.7)], rtol=1e-6)
    # "uniform": 0.7 + 0.1 on the target, 0.1 on each other; "others": 0.7 and 0.15 each.
    uniform = [-0.8 * math.log(0.5) - 0.2 * math.log(0.25), -0.8 * math.log(0.7) - 0.1 * math.log(0.02)]
    others = [-0.7 * math.log(0.5) - 0.3 * math.log(0.25), -0.7 * math.log(0.7) - 0.15 * math.log(0.02)]
    for smoothing, expected in ("uniform", uniform), ("others", others):
        value = CROSS_ENTROPY(logits, targets, label_smoothing=0.3, smoothing=smoothing)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    # Adding a constant to the logits changes nothing but the normaliser: logsumexp = 3.
    np.testing.assert_allclose(CROSS_ENTROPY(logits + 3, targets), CROSS_ENTROPY(logits, targets), rtol=1e-5)
    z_loss = CROSS_ENTROPY(logits + 3, targets, z_loss=0.5) - CROSS_ENTROPY(logits + 3, targets)
    np.testing.assert_allclose(z_loss, [4.5, 4.5], rtol=1e-5)


def test_torch_values_and_gradients(oracle):
    for case in oracle("cross_entropy_mean"):
        logits, labels = jnp.array(case["logits"]), jnp.array(case["labels"])

        def mean(logits, labels=labels, case=case):
            values = CROSS_ENTROPY(
                logits, labels, label_smoothing=case["label_smoothing"], ignore_index=case["ignore_index"]
            )
            return jnp.sum(values) / jnp.sum(labels != case["ignore_index"])

        value, gradient = jax.jit(jax.value_and_grad(mean))(logits)
        np.testing.assert_allclose(value, case["loss"], atol=1e-6)
        np.testing.assert_allclose(gradient, case["grad"], atol=1e-6)
        if not case["label_smoothing"]:
            np.testing.assert_allclose(MASKED(logits, labels), case["loss"], atol=1e-6)


def test_torch_causal_loss(oracle):
    for case in oracle("causal_lm"):
        logits, labels = jnp.array(case["logits"]), np.array(case["labels"])
        np.testing.assert_allclose(CAUSAL(logits, labels), case["loss"], atol=1e-6)


def test_causal_scores_the_next_token_and_masked_its_own():
    tokens = jnp.array([[1, 2, 0, 3]])
    says_next = 50.0 * jax.nn.one_hot(jnp.roll(tokens, -1, axis=1), 4)
    says_itself = 50.0 * jax.nn.one_hot(tokens, 4)
    assert CAUSAL(says_next, tokens) < 1e-6 < 10 < CAUSAL(says_itself, tokens)
    assert MASKED(says_itself, tokens) < 1e-6 < 10 < MASKED(says_next, tokens)


@pytest.mark.parametrize("function", [losses.causal_lm_loss, losses.masked_lm_loss])
def test_an_ignored_batch_gives_zero_and_no_gradient(function):
    logits = jax.random.normal(jax.random.key(0), (2, 4, 5))
    value, gradient = jax.jit(jax.value_and_grad(function))(logits, jnp.full((2, 4), -100))
    assert value == 0
    assert not np.any(gradient)


def test_ignored_positions_get_no_gradient_and_wrong_ids_are_not_silent():
    logits = jax.random.normal(jax.random.key(0), (4, 5))
    targets = jnp.array([1, -100, 5, -1])
    loss = CROSS_ENTROPY
    np.testing.assert_array_equal(np.isnan(loss(logits, targets)), [False, False, True, True])
    np.testing.assert_array_equal(np.isnan(loss(logits, targets, ignore_index=5)), [False, True, False, True])
    scored = np.array([2, -100, 4, -100], np.int64)
    gradient = jax.grad(lambda x: jnp.sum(loss(x, scored, label_smoothing=0.1, z_loss=1.0)))(logits)
    np.testing.assert_array_equal(np.any(gradient, axis=1), [True, False, True, False])


def test_unsigned_tokens_of_a_full_vocabulary():
    logits = jnp.zeros((2, 65536)).at[:, 65535].set(20.0)
    values = CROSS_ENTROPY(logits, np.array([65535, 0], np.uint16))
    assert values[0] < 1e-3 < 19 < values[1]
    head = jnp.zeros((1, 65536)).at[:, 65535].set(20.0)
    fused = losses.linear_token_losses(jnp.ones((2, 1)), head, np.array([65535, 0], np.uint16))
    np.testing.assert_allclose(fused, values, rtol=1e-5)


class Variants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_half_precision_logits_are_summed_in_float32(self):
        logits = jax.random.normal(jax.random.key(1), (3, 1000)).astype(jnp.bfloat16)
        values = self.variant(losses.cross_entropy)(logits, jnp.array([0, 1, 2]))
        assert values.dtype == jnp.float32
        wide = np.asarray(logits.astype(jnp.float32), np.float64)
        expected = np.log(np.exp(wide).sum(-1)) - wide[np.arange(3), np.arange(3)]
        np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_vmap_and_mesh_change_nothing():
    logits = jax.random.normal(jax.random.key(2), (8, 6, 10))
    labels = jax.random.randint(jax.random.key(3), (8, 6), 0, 10)
    loss = functools.partial(losses.cross_entropy, label_smoothing=0.1, z_loss=0.01)
    expected = jax.jit(loss)(logits, labels)
    np.testing.assert_allclose(jax.jit(jax.vmap(loss))(logits, labels), expected, rtol=1e-6)
    value, gradient = jax.jit(jax.value_and_grad(losses.causal_lm_loss))(logits, labels)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    rows = ("data", "fsdp")
    placed = (
        jax.device_put(logits, NamedSharding(mesh, PartitionSpec(rows, None, "tensor"))),
        jax.device_put(labels, NamedSharding(mesh, PartitionSpec(rows))),
    )
    with jax.set_mesh(mesh):
        on_mesh = jax.device_get(jax.jit(jax.value_and_grad(losses.causal_lm_loss))(*placed))
        np.testing.assert_allclose(jax.jit(loss)(*placed), expected, rtol=1e-5)
    np.testing.assert_allclose(on_mesh[0], value, rtol=1e-5)
    np.testing.assert_allclose(on_mesh[1], gradient, atol=1e-6)


def test_units():
    np.testing.assert_allclose(losses.perplexity(math.log(7.0)), 7.0, rtol=1e-6)
    # 8 bytes, each of 256 equally likely values, are 8 bits a byte; as 4 characters, 16 bits each.
    nats = 8 * math.log(256)
    np.testing.assert_allclose(losses.bits_per_byte(nats, 8), 8.0, rtol=1e-6)
    np.testing.assert_allclose(losses.bits_per_character(nats, np.array(4)), 16.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": "half"}, "smoothing='half'.*'uniform' or 'others'"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"targets": np.zeros(4, int)}, r"targets of shape \(3,\), not \(4,\)"),
    ],
)
def test_bad_arguments_are_named(options, message):
    arguments = {"targets": np.zeros(3, int), **options}
    with pytest.raises(ValueError, match=message):
        losses.cross_entropy(jnp.zeros((3, 5)), **arguments)
