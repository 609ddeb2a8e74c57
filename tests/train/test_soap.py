"""SOAP against the algorithm in numpy, each layer by itself, and its state on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec

from lmjax.parallel.mesh import MeshConfig
from lmjax.train.optimizers import SOAP, AdamW, build_optimizer
from lmjax.train.optimizers.state import moment_spec

PLAIN = {"learning_rate": 1.0, "weight_decay": 0.0}


def one(step):
    return jnp.ones_like(step, jnp.float32)


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def updates_of(optimizer, grads, axes):
    """The update of each step, all gradients of one matrix."""
    built = build_optimizer(optimizer, schedule=one, kinds={"w": "matrix"}, axes={"w": axes})
    params = {"w": jnp.zeros_like(grads[0])}
    state, updates, update = built.init(params), [], jax.jit(built.update)
    for grad in grads:
        new, state = update({"w": grad}, state, params)
        updates.append(np.asarray(new["w"]))
    return updates


def in_numpy(grads, *, beta1=0.9, beta2=0.8, product_beta=0.7, every=2, epsilon=1e-8, turn_outputs=True):
    """Algorithm 3 of the paper on one matrix; the first gradient is for the bases alone."""
    momentum = squares = 0.0
    left, right = grads[0] @ grads[0].T, grads[0].T @ grads[0]
    in_basis, out_basis = (np.linalg.eigh(products)[1][:, ::-1] for products in (left, right))
    yield 0 * grads[0]
    for step, grad in enumerate(grads[1:], start=1):
        if not turn_outputs:
            out_basis = np.eye(grad.shape[1])
        momentum = beta1 * momentum + (1 - beta1) * grad
        squares = beta2 * squares + (1 - beta2) * (in_basis.T @ grad @ out_basis) ** 2
        mean = in_basis.T @ momentum @ out_basis / (1 - beta1**step)
        turned = mean / (np.sqrt(squares / (1 - beta2**step)) + epsilon)
        yield -in_basis @ turned @ out_basis.T
        left = product_beta * left + (1 - product_beta) * grad @ grad.T
        right = product_beta * right + (1 - product_beta) * grad.T @ grad
        if step % every == 0:
            in_basis, out_basis = np.linalg.qr(left @ in_basis)[0], np.linalg.qr(right @ out_basis)[0]


@pytest.mark.parametrize(("shape", "largest_side"), [((5, 5), 8), ((4, 6), 5)])
def test_it_is_the_papers_algorithm(shape, largest_side):
    """A side above the largest is not turned. Those turned are of full rank here: else their basis is not unique."""
    grads = [random(*shape, seed=seed) for seed in range(5)]
    optimizer = SOAP(beta1=0.9, beta2=0.8, product_beta=0.7, basis_every=2, largest_side=largest_side, **PLAIN)
    expected = in_numpy([np.asarray(grad, np.float64) for grad in grads], turn_outputs=largest_side > 5)
    for found, wanted in zip(updates_of(optimizer, grads, ("embed", "mlp")), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_where_no_side_is_turned_it_is_adamw():
    grads = [random(4, 6, seed=seed) for seed in range(3)]
    shared = {"beta1": 0.9, "beta2": 0.8, **PLAIN}
    found = updates_of(SOAP(largest_side=1, **shared), grads, ("embed", "mlp"))
    assert not found[0].any()
    for update, expected in zip(found[1:], updates_of(AdamW(**shared), grads[1:], ("embed", "mlp")), strict=True):
        np.testing.assert_allclose(update, expected, rtol=1e-5)


def test_each_layer_has_bases_of_its_own_and_all_heads_are_one_matrix():
    grads = [random(2, 2, 2, 4, seed=seed) for seed in range(3)]
    stacked = updates_of(SOAP(basis_every=1, **PLAIN), grads, ("layers", "heads", "head_width", "embed"))
    for layer in range(2):
        alone = updates_of(SOAP(basis_every=1, **PLAIN), [g[layer].reshape(4, 4) for g in grads], ("mlp", "embed"))
        for found, expected in zip(stacked, alone, strict=True):
            np.testing.assert_allclose(found[layer].reshape(4, 4), expected, atol=1e-4)


def test_its_state_is_divided_as_the_parameters_are():
    spread = tiny.learner(optimizer=SOAP(), mesh=MeshConfig(data=2, fsdp=2, tensor=2), num_devices=8)
    state = spread.state_shardings.opt_state[0].hidden
    of_params = spread.state_shardings.params["model"]["stacks"]["000"]
    for tree in (state.momentum, state.squares):
        own = jax.tree.leaves(tree)
        assert own and {str(leaf.spec) for leaf in own} <= {str(leaf.spec) for leaf in jax.tree.leaves(of_params)}

    def layout(tree, *path):
        for name in ("model", "stacks", "000", *path, "weight"):
            tree = tree[name]
        return tuple(tree.spec)

    assert layout(state.input_basis, "feedforward", "up") == (None, "fsdp", None)
    assert layout(state.output_products, "feedforward", "up") == (None, "tensor", None)
    # All heads are one side: it is split as the heads are.
    split = PartitionSpec(None, "fsdp", "tensor", None)
    assert moment_spec((2, 12, 12), (2, 8, 3, 4), split) == PartitionSpec(None, "tensor", None)
    assert moment_spec((2, 8, 8), (2, 8, 3, 4), split) == PartitionSpec(None, "fsdp", None)


def test_a_run_goes_on_bit_for_bit(tmp_path):
    built = tiny.learner(optimizer=SOAP(learning_rate=1e-2, basis_every=2))
    batches = [tiny.random_rows(17, seed=seed) for seed in range(3)]
    assert tiny.train_metrics(built, batches) == tiny.train_metrics(built, batches, saved_in=tmp_path)


@pytest.mark.parametrize("options", [{"product_beta": 1.0}, {"basis_every": 0}, {"largest_side": 0}])
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=f"optimizer.{next(iter(options))}"):
        SOAP(**options)
