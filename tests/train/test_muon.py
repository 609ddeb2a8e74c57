"""Muon: what is orthogonal, what is a matrix, each layer by itself, and where its state lives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import tiny

from lmjax.models.routing import ExpertsConfig
from lmjax.parallel.mesh import MeshConfig
from lmjax.train.optimizers import AdamW, Muon, build_optimizer
from lmjax.train.optimizers.hidden_matrices import matrix_axes
from lmjax.train.optimizers.newton_schulz import newton_schulz, orthogonalized

EXACT = {"newton_schulz_dtype": "float32", "weight_decay": 0.0}


def one(step):
    return jnp.ones_like(step, jnp.float32)


def first_update(optimizer, grads, *, axes, kinds=None, state=None):
    """The direction of the first step: the update over the negative learning rate."""
    kinds = kinds or dict.fromkeys(grads, "matrix")
    built = build_optimizer(optimizer, schedule=one, kinds=kinds, axes=axes)
    params = jax.tree.map(jnp.zeros_like, grads)
    updates, _ = jax.jit(built.update)(grads, built.init(params), params)
    return jax.tree.map(lambda update: np.asarray(-update / optimizer.learning_rate), updates)


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_newton_schulz_keeps_the_singular_vectors_and_brings_the_values_near_one(dtype, atol):
    matrices = random(3, 8, 20)
    found = np.asarray(jax.jit(lambda x: newton_schulz(x, steps=5, dtype=dtype))(matrices), np.float64)
    for matrix, orthogonal in zip(np.asarray(matrices, np.float64), found, strict=True):
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        values = left.T @ orthogonal @ right.T
        diagonal = np.diag(values)
        assert diagonal.min() > 0.65 and diagonal.max() < 1.25
        np.testing.assert_allclose(values - np.diag(diagonal), 0, atol=atol)
    # The size of the gradient plays no part, and no gradient gives no update.
    tiny_found = newton_schulz(1e-9 * matrices, steps=5, dtype=dtype)
    np.testing.assert_allclose(tiny_found, found, atol=atol)
    assert not np.asarray(newton_schulz(0 * matrices, steps=5, dtype=dtype)).any()


def test_matrices_of_one_shape_and_its_transpose_are_worked_on_together():
    wide, tall, square = random(2, 4, 6), random(3, 6, 4, seed=1), random(1, 5, 5, seed=2)
    steps = {"steps": 5, "dtype": "float32"}
    found = orthogonalized([wide, tall, square], steps=5, arithmetic="auto")
    np.testing.assert_allclose(found[0], newton_schulz(wide, **steps), atol=1e-5)
    np.testing.assert_allclose(found[1].swapaxes(1, 2), newton_schulz(tall.swapaxes(1, 2), **steps), atol=1e-5)
    np.testing.assert_allclose(found[2], newton_schulz(square, **steps), atol=1e-5)


def test_an_update_by_hand():
    """A matrix of rank one, g = 3 u v^T, has the one singular value 1 when it is divided by its norm."""
    u, v = np.array([0.6, 0.8]), np.array([1.0, 2.0, 2.0]) / 3
    value = 1.0
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    grads, axes = {"w": jnp.asarray(3 * np.outer(u, v), jnp.float32)}, {"w": ("embed", "mlp")}
    rms = first_update(Muon(**EXACT), grads, axes=axes)["w"]
    np.testing.assert_allclose(rms, 0.2 * np.sqrt(3) * value * np.outer(u, v), atol=1e-5)
    spectral = first_update(Muon(scale="spectral", **EXACT), grads, axes=axes)["w"]
    np.testing.assert_allclose(spectral, np.sqrt(3 / 2) * value * np.outer(u, v), atol=1e-5)
    down = first_update(Muon(scale="spectral", **EXACT), {"w": grads["w"].T}, axes={"w": ("mlp", "embed")})["w"]
    np.testing.assert_allclose(down, value * np.outer(v, u), atol=1e-5)


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_momentum_by_hand_and_the_muon_of_optax(nesterov):
    """Without Nesterov's blend optax's differs in the size of the momentum only, which plays no part."""
    optimizer = Muon(momentum=0.9, nesterov=nesterov, learning_rate=1.0, **EXACT)
    ours = build_optimizer(optimizer, schedule=one, kinds={"w": "matrix"}, axes={"w": ("embed", "mlp")})
    theirs = optax.contrib.scale_by_muon(
        beta=0.9, nesterov=False, weight_dimension_numbers={"w": optax.contrib.MuonDimensionNumbers()}
    )
    params, momentum = {"w": jnp.zeros((6, 9))}, np.zeros((6, 9))
    state, their_state = ours.init(params), theirs.init(params)
    for seed in range(3):
        grads = {"w": random(6, 9, seed=seed)}
        momentum = 0.9 * momentum + 0.1 * grads["w"]
        blend = 0.9 * momentum + 0.1 * grads["w"] if nesterov else momentum
        updates, state = ours.update(grads, state, params)
        expected = 0.2 * 3 * newton_schulz(blend[None], steps=5, dtype="float32")[0]
        np.testing.assert_allclose(-updates["w"], expected, atol=1e-5)
        same, their_state = theirs.update(grads, their_state, params)
        if not nesterov:
            np.testing.assert_allclose(-updates["w"], 0.2 * 3 * same["w"], atol=1e-4)


@pytest.mark.parametrize("neurons", [False, True])
def test_each_layer_and_expert_is_treated_by_itself(neurons):
    optimizer = Muon(normalize_neurons=neurons, **EXACT)
    grads = {"stack": random(2, 3, 4, 6).at[1].multiply(100.0)}
    stacked = first_update(optimizer, grads, axes={"stack": ("layers", "experts", "embed", "mlp")})["stack"]
    for layer in range(2):
        for expert in range(3):
            alone = first_update(optimizer, {"w": grads["stack"][layer, expert]}, axes={"w": ("embed", "mlp")})["w"]
            np.testing.assert_allclose(stacked[layer, expert], alone, atol=1e-5)


def test_all_heads_are_one_matrix():
    out = random(2, 3, 4)
    grads = {"query": random(8, 2, 3), "out": out}
    axes = {"query": ("embed", "heads", "head_width"), "out": ("heads", "head_width", "embed")}
    found = first_update(Muon(**EXACT), grads, axes=axes)
    flat = {"query": grads["query"].reshape(8, 6), "out": out.reshape(6, 4)}
    expected = first_update(Muon(**EXACT), flat, axes={"query": ("embed", "mlp"), "out": ("mlp", "embed")})
    for name, update in found.items():
        np.testing.assert_allclose(update.reshape(flat[name].shape), expected[name], atol=1e-6)


def test_neurons_get_updates_of_equal_size():
    """At the first step the running mean is that of the column itself: columns have one norm, the matrix RMS 0.2."""
    update = first_update(Muon(normalize_neurons=True, **EXACT), {"w": random(6, 4)}, axes={"w": ("embed", "mlp")})["w"]
    norms = np.linalg.norm(update, axis=0)
    np.testing.assert_allclose(norms, norms[0], rtol=1e-4)
    np.testing.assert_allclose(np.sqrt(np.mean(update**2)), 0.2, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "axes", "expected"),
    [
        ("matrix", ("embed", "mlp"), (0, 1)),
        ("matrix", ("layers", "experts", "mlp", "embed"), (2, 1)),
        ("matrix", ("layers", "embed", "kv_heads", "head_width"), (1, 1)),
        ("matrix", ("layers", "heads", "head_width", "embed"), (1, 2)),
        ("matrix", ("mixes", "rank", "embed"), (1, 1)),
        ("matrix", ("embed", "mixes", "rank"), (0, 1)),
        ("matrix", ("embed", "heads"), (0, 1)),
        ("matrix", ("embed", "vocab"), None),
        ("matrix", ("embed", "choices"), None),
        ("matrix", ("features", "embed"), None),
        ("matrix", ("embed",), None),
        ("embedding", ("vocab", "embed"), None),
        ("norm", ("layers", "norm"), None),
        ("bias", ("layers", "heads", "head_width"), None),
    ],
)
def test_hidden_matrices_are_known_by_kind_and_axes(kind, axes, expected):
    assert matrix_axes(kind, axes) == expected


def test_all_else_is_updated_as_by_adamw():
    kinds = {"table": "embedding", "w": "matrix", "scale": "norm"}
    axes = {"table": ("vocab", "embed"), "w": ("embed", "mlp"), "scale": ("norm",)}
    grads = {"table": random(5, 4), "w": random(4, 6), "scale": random(4)}
    shared = {"learning_rate": 0.5, "weight_decay": 0.0, "beta1": 0.5, "beta2": 0.75}
    expected = first_update(AdamW(**shared), grads, axes=axes, kinds=kinds)
    found = first_update(Muon(**shared), grads, axes=axes, kinds=kinds)
    slower = first_update(Muon(adamw_learning_rate=0.25, **shared), grads, axes=axes, kinds=kinds)
    for name in ("table", "scale"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
        np.testing.assert_allclose(slower[name], expected[name] / 2, rtol=1e-6)
    np.testing.assert_allclose(slower["w"], found["w"], rtol=1e-6)


MODEL = dataclasses.replace(tiny.MODEL, experts=ExpertsConfig(number=2))


@pytest.mark.long
def test_its_state_lies_as_the_parameters_and_devices_change_nothing():
    optimizer = Muon(learning_rate=1e-2, normalize_neurons=True)
    alone = tiny.learner(optimizer=optimizer, model=MODEL)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    spread = tiny.learner(optimizer=optimizer, model=MODEL, mesh=mesh, num_devices=8)
    shardings = spread.state_shardings
    of_params = {
        jax.tree_util.keystr(path, simple=True, separator="."): sharding.spec
        for path, sharding in jax.tree_util.tree_leaves_with_path(shardings.params)
    }
    state = shardings.opt_state[0]
    momenta = jax.tree_util.tree_leaves_with_path((state.hidden.momentum, state.others.mu))
    assert len(momenta) == len(of_params)
    for path, sharding in momenta:
        name = next(n for n in of_params if jax.tree_util.keystr(path, simple=True, separator=".").endswith(f".{n}"))
        assert sharding.spec == of_params[name], name
    assert any("fsdp" in str(spec) and "tensor" in str(spec) for spec in of_params.values())
    neurons = {str(leaf.spec) for leaf in jax.tree.leaves(state.hidden.neurons)}
    assert any("tensor" in spec or "fsdp" in spec for spec in neurons)
    losses = [tiny.train_losses(built, steps=4) for built in (alone, spread)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-4)


def test_a_run_goes_on_bit_for_bit(tmp_path):
    built = tiny.learner(optimizer=Muon(learning_rate=1e-2, normalize_neurons=True))
    batches = [tiny.random_rows(17, seed=seed) for seed in range(3)]
    assert tiny.train_metrics(built, batches) == tiny.train_metrics(built, batches, saved_in=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"scale": "jordan"}, "scale='jordan': use one of rms, spectral"),
        ({"newton_schulz_steps": 0}, "newton_schulz_steps=0"),
        ({"adamw_learning_rate": 0.0}, "adamw_learning_rate=0.0"),
        ({"newton_schulz_dtype": "float16"}, "newton_schulz_dtype='float16': use one of auto, bfloat16, float32"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=f"optimizer.{message}"):
        Muon(**options)


def test_a_width_base_is_refused():
    with pytest.raises(ValueError, match="optimizer=Muon: model.width_base scales"):
        build_optimizer(Muon(), schedule=one, kinds={"w": "matrix"}, axes={"w": ("embed", "mlp")}, width_ratio=2.0)
