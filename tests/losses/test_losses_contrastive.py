"""InfoNCE: torch's values, which scores compete, and negatives from all devices."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lmjax import losses
from lmjax.parallel.mesh import MeshConfig, make_mesh


def unit(key, *shape):
    vectors = jax.random.normal(jax.random.key(key), shape)
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)


def test_in_batch_negatives_are_torch(oracle):
    for case in oracle("info_nce_in_batch"):
        info_nce = jax.jit(functools.partial(losses.info_nce, temperature=case["temperature"]))
        values = info_nce(jnp.array(case["queries"]), jnp.array(case["documents"]))
        np.testing.assert_allclose(np.mean(values), case["loss"], rtol=1e-6)


def test_hard_negatives_are_torch(oracle):
    for case in oracle("info_nce_hard_negatives_only"):
        info_nce = jax.jit(functools.partial(losses.info_nce, temperature=case["temperature"], in_batch=False))
        queries, positives, negatives = (jnp.array(case[name]) for name in ("queries", "positives", "negatives"))
        values = info_nce(queries, positives, hard_negatives=negatives)
        np.testing.assert_allclose(np.mean(values), case["loss"], rtol=1e-6)


def test_who_competes_by_hand():
    # One-hot queries: a query's score with a vector is one of its components.
    queries = jnp.eye(2)
    keys = jnp.array([[3.0, 1.0], [0.0, 2.0]])
    own, shared = jnp.array([[[5.0, 0.0]], [[0.0, 4.0]]]), jnp.array([[7.0, 8.0]])

    def expected(*scores):  # the first is the positive, temperature 2
        return math.log(sum(math.exp(score / 2) for score in scores)) - scores[0] / 2

    def loss(**options):
        info_nce = jax.jit(losses.info_nce, static_argnames=("temperature", "symmetric"))
        return info_nce(queries, keys, temperature=2.0, **options)

    np.testing.assert_allclose(loss(), [expected(3, 0), expected(2, 1)], rtol=1e-6)
    np.testing.assert_allclose(loss(hard_negatives=own), [expected(3, 0, 5), expected(2, 1, 4)], rtol=1e-6)
    np.testing.assert_allclose(loss(hard_negatives=shared), [expected(3, 0, 7), expected(2, 1, 8)], rtol=1e-6)
    both = [(expected(3, 0) + expected(3, 1)) / 2, (expected(2, 1) + expected(2, 0)) / 2]
    np.testing.assert_allclose(loss(symmetric=True), both, rtol=1e-6)


def test_a_learned_temperature_gets_a_gradient():
    queries, keys = unit(0, 6, 8), unit(1, 6, 8)

    @jax.jit
    def mean(log_temperature):
        return jnp.mean(losses.info_nce(queries, keys, temperature=jnp.exp(log_temperature)))

    gradient = jax.jit(jax.grad(mean))(-1.0)
    numeric = (mean(-0.99) - mean(-1.01)) / 0.02
    np.testing.assert_allclose(gradient, numeric, rtol=1e-2)
    assert abs(gradient) > 1e-2


@pytest.mark.parametrize("symmetric", [False, True])
def test_negatives_come_from_all_devices(symmetric):
    arguments = unit(0, 16, 8), unit(1, 16, 8), unit(2, 16, 3, 8)

    def total(queries, keys, hard_negatives):
        values = losses.info_nce(queries, keys, temperature=0.1, hard_negatives=hard_negatives, symmetric=symmetric)
        return jnp.mean(values)

    function = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
    expected = jax.device_get(function(*arguments))
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    placed = jax.device_put(arguments, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    with jax.set_mesh(mesh):
        on_mesh = jax.device_get(function(*placed))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5), on_mesh, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"in_batch": False}, "in_batch=False needs hard_negatives"),
        ({"in_batch": False, "symmetric": True, "hard_negatives": jnp.zeros((4, 1, 8))}, "cannot be symmetric"),
        ({"hard_negatives": jnp.zeros((3, 1, 8))}, r"must be \[4, K, 8\]"),
        ({"hard_negatives": jnp.zeros((5, 7))}, r"or \[M, 8\]"),
        ({"keys": jnp.zeros((3, 8))}, r"queries \(4, 8\) and keys \(3, 8\)"),
    ],
)
def test_bad_arguments_are_named(options, message):
    arguments = {"queries": jnp.ones((4, 8)), "keys": jnp.ones((4, 8)), "temperature": 0.1, **options}
    with pytest.raises(ValueError, match=message):
        losses.info_nce(**arguments)
