"""The optimizers against hand values and optax; decay by kind; shardings of the state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.tree
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lmjax.parallel.mesh import MeshConfig, make_mesh, named_sharding
from lmjax.train.optimizers import (
    SGD,
    Adafactor,
    AdamW,
    Lion,
    build_optimizer,
    clip_by_norm,
    decays,
    ema_update,
    state_shardings,
    trained,
    with_frozen,
)

KINDS = {
    "embedding": {"table": "embedding"},
    "positions": {"table": "position"},
    "blocks": {"up": "matrix", "scale": "norm", "bias": "bias"},
}
AXES = {
    "embedding": {"table": ("vocab", "embed")},
    "positions": {"table": ("positions", "embed")},
    "blocks": {"up": ("layers", "embed", "mlp"), "scale": ("layers", "embed"), "bias": ("layers", "mlp")},
}
SHAPES = {
    "embedding": {"table": (16, 8)},
    "positions": {"table": (4, 8)},
    "blocks": {"up": (2, 8, 16), "scale": (2, 8), "bias": (2, 16)},
}


def random_like(seed: int):
    is_shape = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s), jnp.float32), SHAPES, is_leaf=is_shape)


def one(step):
    return jnp.ones_like(step, jnp.float32)


EVERY = {"adamw": AdamW, "lion": Lion, "sgd": SGD, "adafactor": Adafactor}


def build(schedule=one, *, name="adamw", **options):
    return build_optimizer(EVERY[name](**options), schedule=schedule, kinds=KINDS, axes=AXES)


def step_once(optimizer, params, grads):
    @jax.jit
    def step(params, grads):
        updates, state = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates), state

    return step(params, grads)


def test_first_adamw_step_by_hand():
    """m-hat = g and v-hat = g^2 at the first step, so the direction is g / (|g| + epsilon)."""
    params, grads = random_like(0), random_like(1)
    optimizer = build(name="adamw", learning_rate=0.01, weight_decay=0.5, epsilon=0.25)
    new, _ = step_once(optimizer, params, grads)
    decayed = {
        "embedding": {"table": 0.0},
        "positions": {"table": 0.0},
        "blocks": {"up": 0.5, "scale": 0.0, "bias": 0.0},
    }
    expected = jax.tree.map(lambda p, g, d: p - 0.01 * (g / (jnp.abs(g) + 0.25) + d * p), params, grads, decayed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new, expected)


def test_second_adamw_step_by_hand():
    """Same gradient 1, then 3: m = (0.5*0.5*1 + 0.5*3) / 0.75, v = (0.75*0.25*1 + 0.25*9) / 0.4375."""
    kinds, axes = {"w": "matrix"}, {"w": ("embed",)}
    config = AdamW(learning_rate=1.0, weight_decay=0.0, beta1=0.5, beta2=0.75, epsilon=1e-12)
    optimizer = build_optimizer(config, schedule=one, kinds=kinds, axes=axes)
    params, state = {"w": jnp.zeros(1)}, optimizer.init({"w": jnp.zeros(1)})
    for gradient in (1.0, 3.0):
        updates, state = optimizer.update({"w": jnp.full(1, gradient)}, state, params)
    m, v = (0.5 * 0.5 + 0.5 * 3) / 0.75, (0.75 * 0.25 + 0.25 * 9) / 0.4375
    np.testing.assert_allclose(updates["w"], -m / np.sqrt(v), rtol=1e-6)


def test_lion_and_sgd_by_hand():
    params, first, second = random_like(0), random_like(1), random_like(2)
    for options, direction in (
        ({"name": "lion", "beta1": 0.6, "beta2": 0.9}, lambda a, b: jnp.sign(0.6 * 0.1 * a + 0.4 * b)),
        ({"name": "sgd", "momentum": 0.5}, lambda a, b: 0.5 * a + b),
    ):
        optimizer = build(learning_rate=0.1, weight_decay=0.0, **options)
        _, state = step_once(optimizer, params, first)
        updates, _ = optimizer.update(second, state, params)
        expected = jax.tree.map(lambda a, b, f=direction: -0.1 * f(a, b), first, second)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), updates, expected)


@pytest.mark.long
def test_adafactor_treats_each_layer_as_optax_treats_an_unstacked_one():
    params, grads = random_like(0), [random_like(1), random_like(2)]
    grads[0]["blocks"]["up"] = grads[0]["blocks"]["up"].at[1].multiply(100.0)
    ours = build(name="adafactor", learning_rate=0.1, weight_decay=0.0, min_factored_size=4)
    theirs = optax.adafactor(0.1, min_dim_size_to_factor=4)

    def run(optimizer, params, pick):
        state = optimizer.init(params)
        for grad in grads:
            updates, state = optimizer.update(pick(grad), state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    stacked, state = run(ours, params, lambda grad: grad)
    for layer in range(2):
        pick = lambda tree, i=layer: jax.tree.map(lambda leaf: leaf[i], tree["blocks"])  # noqa: E731
        expected, _ = run(theirs, pick(params), pick)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), pick(stacked), expected)
    expected, _ = run(theirs, params["embedding"], lambda grad: grad["embedding"])
    np.testing.assert_allclose(stacked["embedding"]["table"], expected["table"], rtol=1e-5)
    factored = state[0]
    assert factored.v_row["blocks"]["up"].shape == (2, 8)
    assert factored.v_col["blocks"]["up"].shape == (2, 16)
    assert factored.v["blocks"]["scale"].shape == (2, 8)
    assert factored.count == 2


def test_learning_rate_follows_the_traced_step():
    optimizer = build(
        lambda step: jnp.float32(2.0) ** -step, name="sgd", learning_rate=1.0, weight_decay=0.0, momentum=0.0
    )
    params, ones = random_like(0), jax.tree.map(jnp.ones_like, random_like(0))
    update = jax.jit(optimizer.update)
    state, rates = optimizer.init(params), []
    for _ in range(3):
        updates, state = update(ones, state, params)
        rates.append(-float(updates["blocks"]["bias"][0, 0]))
    assert rates == [1.0, 0.5, 0.25]
    assert update._cache_size() == 1


def test_decay_goes_by_kind():
    off = {"embedding": {"table": False}, "positions": {"table": False}}
    blocks = {"up": True, "scale": False, "bias": False}
    assert decays(KINDS, embeddings=False) == off | {"blocks": blocks}
    on = {"embedding": {"table": True}, "positions": {"table": True}}
    assert decays(KINDS, embeddings=True) == on | {"blocks": blocks}
    with pytest.raises(ValueError, match=r"blocks\.up is of unknown kind 'matrx': use one of matrix"):
        decays({"blocks": {"up": "matrx"}}, embeddings=False)


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "adafactor"])
def test_every_optimizer_decays_only_matrices(name):
    params, zeros = random_like(0), jax.tree.map(jnp.zeros_like, random_like(0))
    new, _ = step_once(build(name=name, learning_rate=0.1, weight_decay=0.5), params, zeros)
    np.testing.assert_allclose(new["blocks"]["up"], 0.95 * params["blocks"]["up"], rtol=1e-5)
    for part, leaf in (
        ("embedding", "table"),
        ("positions", "table"),
        ("blocks", "scale"),
        ("blocks", "bias"),
    ):
        np.testing.assert_array_equal(new[part][leaf], params[part][leaf])


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_frozen_parameters_have_no_part_in_it(name):
    config = EVERY[name](learning_rate=0.1)
    kinds, axes, params, grads = ({"own": a, "given": b} for a, b in (
        (KINDS, jax.tree.map(lambda _: "frozen", KINDS)), (AXES, AXES),
        (random_like(0), random_like(1)), (random_like(2), random_like(3)),
    ))  # fmt: skip
    optimizer = build_optimizer(config, schedule=one, kinds=kinds, axes=axes)
    part, state = step_once(optimizer, trained(params, kinds), trained(grads, kinds))
    alone, alone_state = step_once(build(name=name, learning_rate=0.1), params["own"], grads["own"])
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves((part, state)), jax.tree.leaves((alone, alone_state)))
    whole = with_frozen(part, params)
    jax.tree.map(np.testing.assert_array_equal, whole, {"own": alone, "given": params["given"]})


def test_moment_dtype():
    for name in ("adamw", "lion", "sgd"):
        state = build(name=name, moment_dtype="bfloat16").init(random_like(0))
        assert any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "adafactor"])
def test_state_lies_where_its_parameters_do(name):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    params = random_like(0)
    shardings = jax.tree.map(lambda p, names: named_sharding(names, p.shape, mesh), params, AXES)
    optimizer = build(name=name, **({"min_factored_size": 4} if name == "adafactor" else {}))
    wanted = state_shardings(optimizer, jax.eval_shape(lambda: params), shardings, mesh)
    state = jax.jit(optimizer.init, out_shardings=wanted)(jax.device_put(params, shardings))
    assert jax.tree.structure(state) == jax.tree.structure(wanted)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state) if leaf.ndim == 0)

    first = state[0]
    moments = {"adamw": ("mu", "nu"), "lion": ("mu",), "sgd": ("trace",), "adafactor": ()}[name]
    for moment in moments:
        jax.tree.map(
            lambda leaf, s: np.testing.assert_equal(leaf.sharding.spec, s.spec),
            getattr(first, moment),
            shardings,
        )
    if name == "adafactor":
        # [2, 8, 16] over (layers, embed -> fsdp, mlp -> tensor): rows keep embed, columns keep mlp.
        assert first.v_row["blocks"]["up"].sharding.spec == PartitionSpec(None, ("fsdp",))
        assert first.v_col["blocks"]["up"].sharding.spec == PartitionSpec(None, ("tensor",))
        assert first.v["blocks"]["bias"].sharding.spec == shardings["blocks"]["bias"].spec
    else:
        embedding = getattr(first, moments[0])["embedding"]["table"]
        assert embedding.addressable_shards[0].data.size * 4 == embedding.size


def test_state_of_a_square_matrix_is_sharded_only_where_its_shape_is_telling():
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    params = {"w": jax.ShapeDtypeStruct((2, 8, 8), jnp.float32)}
    shardings = {"w": NamedSharding(mesh, PartitionSpec(None, None, "fsdp"))}
    optimizer = build_optimizer(
        Adafactor(min_factored_size=4),
        schedule=one,
        kinds={"w": "matrix"},
        axes={"w": ("layers", "heads", "embed")},
    )
    specs = state_shardings(optimizer, params, shardings, mesh)[0]
    assert specs.v_row["w"].spec == specs.v_col["w"].spec == PartitionSpec(None, None)


def test_clip_by_norm():
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]], jnp.bfloat16)}
    norm = optax.tree.norm(grads)
    clipped = clip_by_norm(grads, norm=norm, max_norm=1.0)
    np.testing.assert_allclose(clipped["a"], [0.6, 0.0], rtol=1e-6)
    assert clipped["b"].dtype == jnp.bfloat16
    for max_norm in (10.0, None):
        same = clip_by_norm(grads, norm=norm, max_norm=max_norm)
        jax.tree.map(np.testing.assert_array_equal, same, grads)
    zero = clip_by_norm({"a": jnp.zeros(2)}, norm=jnp.float32(0), max_norm=1.0)
    np.testing.assert_array_equal(zero["a"], 0)
    bad = clip_by_norm({"a": jnp.array([jnp.nan])}, norm=jnp.float32(jnp.nan), max_norm=1.0)
    assert jnp.isnan(bad["a"]).all()


def test_ema():
    ema, params = {"w": jnp.zeros(2)}, {"w": jnp.ones(2, jnp.bfloat16)}
    plain = ema_update(ema, params, jnp.int32(0), decay=0.75, warm_up=False)
    np.testing.assert_allclose(plain["w"], 0.25)
    assert plain["w"].dtype == jnp.float32
    # warm-up: d = 1/10 at step 0, 21/30 at step 20, and the limit from (1 + s) / (10 + s) = 0.75 on, step 26
    for step, kept in ((0, 0.1), (20, 0.7), (26, 0.75), (1000, 0.75)):
        warm = ema_update(ema, params, jnp.int32(step), decay=0.75)
        np.testing.assert_allclose(warm["w"], 1 - kept, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "field"),
    [
        (AdamW, {"learning_rate": 0.0}, "learning_rate=0.0"),
        (Lion, {"weight_decay": -1.0}, "weight_decay=-1.0"),
        (SGD, {"clip_norm": 0.0}, "clip_norm=0.0"),
        (AdamW, {"beta1": 1.0}, "beta1=1.0"),
        (Lion, {"beta2": -0.5}, "beta2=-0.5"),
        (AdamW, {"epsilon": 0.0}, "epsilon=0.0"),
        (SGD, {"momentum": 1.0}, "momentum=1.0"),
        (Adafactor, {"min_factored_size": 0}, "min_factored_size=0"),
        (AdamW, {"moment_dtype": "float16"}, "moment_dtype='float16': use one of float32, bfloat16, None"),
        (AdamW, {"router_bias_rate": -1.0}, "router_bias_rate=-1.0"),
    ],
)
def test_bad_options_are_named(kind, options, field):
    with pytest.raises(ValueError, match=f"optimizer.{field}"):
        kind(**options)


def test_cautious_decay_leaves_weights_alone_that_the_update_makes_larger():
    """The direction of sgd is the gradient, which is subtracted: of one sign with the weight it makes it smaller."""
    params = jax.tree.map(jnp.ones_like, random_like(0))
    grads = jax.tree.map(jnp.sign, random_like(1))
    optimizer = build(name="sgd", momentum=0.0, learning_rate=0.1, weight_decay=0.5, cautious_decay=True)
    new, _ = step_once(optimizer, params, grads)
    up = grads["blocks"]["up"]
    np.testing.assert_allclose(new["blocks"]["up"], 1 - 0.1 * (up + 0.5 * (up > 0)), rtol=1e-6)
    np.testing.assert_allclose(new["blocks"]["scale"], 1 - 0.1 * grads["blocks"]["scale"], rtol=1e-6)
