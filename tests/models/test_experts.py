"""Experts against a loop over them, what routers report by hand, and the same numbers on every layout."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax.kernels import grouped
from lmjax.models.execution import ExecutionConfig
from lmjax.models.experts import Experts, slots_in_rows
from lmjax.models.layers import ACTIVATIONS, activated
from lmjax.models.parameters import module_spec
from lmjax.models.routing import ExpertsConfig, choose, report
from lmjax.models.summary import summarize
from lmjax.parallel.mesh import MeshConfig, make_mesh, named_sharding
from lmjax.train.optimizers import SGD
from lmjax.types import make_stream

B, T = 2, 12
MODEL = dataclasses.replace(tiny.MODEL, experts=ExpertsConfig(number=4, router_z_loss=0.1))


def changed(model=MODEL, *, bias: bool = False, **experts):
    return dataclasses.replace(model, bias=bias, experts=dataclasses.replace(model.experts, **experts))


def loop(config, params, x_BTD):
    """Every expert for every token, times its gate, which is 0 where it was not chosen."""
    experts, act = config.experts, ACTIVATIONS[config.activation]
    logits_BTE = x_BTD @ params["router"]["weight"]
    scores_BTE = jax.nn.sigmoid(logits_BTE) if experts.scores == "sigmoid" else jax.nn.softmax(logits_BTE)
    ranked_BTE = scores_BTE + params["router"]["bias"][None, None] if experts.balance_bias else scores_BTE
    threshold_BT1 = jnp.sort(ranked_BTE, axis=-1)[..., -experts.per_token][..., None]
    gates_BTE = jnp.where(ranked_BTE >= threshold_BT1, scores_BTE, 0.0)
    if experts.normalize_gates:
        gates_BTE = gates_BTE / gates_BTE.sum(-1, keepdims=True)

    def project(part, x):
        return x @ part["weight"] + part["bias"][None, None]

    def feedforward(params):
        return project(params["down"], act(project(params["gate"], x_BTD)) * project(params["up"], x_BTD))

    def add(out_BTD, expert):
        gate_BT, params = expert
        return out_BTD + experts.gate_scale * gate_BT[..., None] * feedforward(params), None

    each = {name: params[name] for name in ("up", "gate", "down")}
    start_BTD = feedforward(params["shared"]) if experts.shared else jnp.zeros_like(x_BTD)
    return jax.lax.scan(add, start_BTD, (jnp.moveaxis(gates_BTE, -1, 0), each))[0]


DEEPSEEK = {"scores": "sigmoid", "gate_scale": 2.5, "balance_bias": True, "shared": 1, "width": 24, "per_token": 3}
FORMS = {
    "blocked": (changed(bias=True, normalize_gates=False), "blocked"),
    "ragged": (changed(bias=True, **DEEPSEEK), "ragged"),
    "tiled": (changed(bias=True, **DEEPSEEK), "tiled"),
    "capacity": (changed(bias=True, capacity_factor=2.0), None),
    "eight devices": (changed(bias=True), None),
}
MESH = MeshConfig(data=1, fsdp=2, expert=2, tensor=2)


@pytest.mark.parametrize("form", FORMS)
def test_equals_a_loop_over_experts_in_value_and_gradient(form, monkeypatch):
    config, method = FORMS[form]
    monkeypatch.setattr("lmjax.models.experts.group_rows", functools.partial(grouped.group_rows, method=method))
    spec = module_spec(lambda key: Experts(config, rngs=nnx.Rngs(params=key)))
    params = tiny.random_params(spec)
    x_BTD = jax.random.normal(jax.random.key(0), (4, T, config.width))

    def outputs(params, x_BTD):
        return spec.bind(params)(x_BTD)[0], loop(config, params, x_BTD)

    @jax.jit
    def both(params, x_BTD):
        (out, expected), pull_back = jax.vjp(outputs, params, x_BTD)
        cotangent = jax.random.normal(jax.random.key(1), out.shape)
        zero = jnp.zeros_like(cotangent)
        return (out, pull_back((cotangent, zero))), (expected, pull_back((zero, cotangent)))

    if form == "eight devices":
        mesh = make_mesh(MESH)
        with jax.set_mesh(mesh):
            result, expected = both(jax.device_put(params, spec.shardings(mesh)), x_BTD)
    else:
        result, expected = both(params, x_BTD)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), result, expected)
    by_router = expected[1][0]["router"]["weight"]
    assert np.abs(by_router).max() > 0.1


@pytest.mark.parametrize(
    ("capacity_factor", "collectives"),
    [(1.25, ["all-to-all"] * 2), (None, ["all-gather"] * 3 + ["reduce-scatter"])],
)
def test_tokens_are_sent_among_the_devices_of_experts_and_nothing_else_is(capacity_factor, collectives):
    config = changed(capacity_factor=capacity_factor)
    spec = module_spec(lambda key: Experts(config, rngs=nnx.Rngs(params=key)))
    mesh = make_mesh(MeshConfig(data=2, expert=4))

    def abstract(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=sharding)

    params = jax.tree.map(abstract, spec.shapes, spec.shardings(mesh))
    x_BTD = abstract(jnp.zeros((8, 16, 16)), named_sharding(("batch", None, None), (8, 16, 16), mesh))
    with jax.set_mesh(mesh):
        text = jax.jit(lambda params, x_BTD: spec.bind(params)(x_BTD)[0]).lower(params, x_BTD).compile().as_text()
    names = re.findall(r" (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)\(", text)
    assert sorted(names) == collectives


def test_rows_of_a_group_lie_together_and_strangers_nowhere():
    group_R = jnp.array([2, 0, 5, 2, -1, 0, 2, 0, 0, 2], jnp.int32)
    weight_EDF = jnp.arange(1.0, 4.0)[:, None, None]
    rows_RD = jnp.arange(1.0, 11.0)[:, None]
    for method in ("blocked", "ragged", "tiled"):
        groups = grouped.group_rows(group_R, 3, method=method)
        slots_SD = grouped.to_slots(rows_RD, groups.slot_R[:, None], groups.num_slots)
        out_SF = groups.multiply(slots_SD, weight_EDF)
        out_RF = grouped.from_slots(out_SF, groups.slot_R[:, None], jnp.ones((10, 1)))
        np.testing.assert_array_equal(out_RF[:, 0], [3, 2, 0, 12, 0, 6, 21, 8, 9, 30])


def test_capacity_is_given_out_along_the_row_and_not_to_padding():
    chosen_BTJ = jnp.array([[[0, 1], [0, 2], [0, 1], [1, 0], [2, 0]]], jnp.int32)
    valid_BT = jnp.array([[True, False, True, True, True]])
    slot_BTJ, kept_BTJ = slots_in_rows(chosen_BTJ, valid_BT, 3, 2)
    np.testing.assert_array_equal(slot_BTJ, [[[0, 2], [6, 6], [1, 3], [6, 6], [4, 6]]])
    np.testing.assert_array_equal(kept_BTJ, slot_BTJ < 6)
    assert ExpertsConfig(number=8, capacity_factor=1.25).capacity(16) == 5
    assert ExpertsConfig(number=8, capacity_factor=100.0).capacity(16) == 16


def test_what_is_dropped_depends_on_earlier_tokens_only():
    config = changed(capacity_factor=0.5)
    spec = module_spec(lambda key: Experts(config, rngs=nnx.Rngs(params=key)))
    run = jax.jit(lambda x_BTD: spec.bind(tiny.random_params(spec))(x_BTD))
    x_BTD = jax.random.normal(jax.random.key(0), (B, T, config.width))
    (out, routing), (other, _) = run(x_BTD), run(x_BTD.at[:, 7:].multiply(-1.0))
    np.testing.assert_array_equal(out[:, :7], other[:, :7])
    assert not np.allclose(out[:, 7:], other[:, 7:])
    assert routing.dropped_B.min() > 0.2 and routing.dropped_B.max() < 0.9
    # A choice without room contributes nothing, the token's other one what it would have.
    plenty = module_spec(lambda key: Experts(changed(capacity_factor=4.0), rngs=nnx.Rngs(params=key)))
    whole, _ = jax.jit(lambda x_BTD: plenty.bind(tiny.random_params(spec))(x_BTD))(x_BTD)
    assert np.any(np.all(np.asarray(out) == 0, axis=-1)) and np.any(np.all(np.isclose(out, whole), axis=-1))


def test_what_a_router_reports_by_hand():
    """Row 0: both real tokens to expert 1; row 1: one to each; padding would have made it otherwise."""
    logits_BTE = jnp.log(jnp.array([[[1.0, 3.0], [3.0, 5.0], [9.0, 1.0]], [[3.0, 1.0], [1.0, 3.0], [5.0, 5.0]]]))
    valid_BT = jnp.array([[True, True, False], [True, True, True]])
    config = ExpertsConfig(number=2, per_token=1, normalize_gates=False)
    chosen_BTJ, gates_BTJ, scores_BTE = choose(config, logits_BTE, None)
    np.testing.assert_array_equal(chosen_BTJ[..., 0], [[1, 1, 0], [0, 1, 0]])
    np.testing.assert_allclose(gates_BTJ[..., 0], [[3 / 4, 5 / 8, 9 / 10], [3 / 4, 3 / 4, 1 / 2]], rtol=1e-6)
    kept_BTJ = jnp.array([[True, False, False], [True, True, True]])[..., None]
    routing = report(logits_BTE, scores_BTE, chosen_BTJ, None, valid_BT=valid_BT, kept_BTJ=kept_BTJ)
    # E sum_e f_e P_e: 2 * (0 * 5/16 + 1 * 11/16), and 2 * (2/3 * 1/2 + 1/3 * 1/2).
    np.testing.assert_allclose(routing.balance_B, [2 * (3 / 4 + 5 / 8) / 2, 1.0], rtol=1e-6)
    sums = np.array([[4.0, 8.0], [4.0, 4.0]])
    np.testing.assert_allclose(
        routing.router_z_B, [np.mean(np.log(sums[0]) ** 2), np.mean(np.log([4, 4, 10.0]) ** 2)], rtol=1e-6
    )
    np.testing.assert_allclose(routing.max_load_B, [2.0, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(routing.dropped_B, [0.5, 0.0], atol=1e-6)

    def along_bias(bias_E):
        return report(logits_BTE, scores_BTE, chosen_BTJ, bias_E, valid_BT=valid_BT, kept_BTJ=None).bias_B

    bias_E = jnp.array([0.3, -0.2])
    np.testing.assert_array_equal(along_bias(bias_E), [0.0, 0.0])
    # The loads are 0 and 1, and 2/3 and 1/3; an even one is 1/2.
    np.testing.assert_allclose(1e6 * jax.jacobian(along_bias)(bias_E), [[-1 / 2, 1 / 2], [1 / 6, -1 / 6]], rtol=1e-5)


def test_groups_are_chosen_by_their_two_best_and_experts_within_them():
    """Two of three groups, by the sums 0.9 + 0.1, 0.6 + 0.5 and 0.7 + 0.45; the best expert's group is the worst."""
    ranks = jnp.array([[[0.9, 0.1, 0.05, 0.6, 0.5, 0.0, 0.7, 0.45, 0.39]]])
    config = ExpertsConfig(number=9, per_token=3, groups=3, groups_per_token=2, scores="sigmoid")
    logits = jnp.log(ranks / (1 - ranks))
    chosen, gates, scores = choose(config, logits, None)
    np.testing.assert_array_equal(chosen[0, 0], [6, 3, 4])
    np.testing.assert_allclose(gates[0, 0], np.array([0.7, 0.6, 0.5]) / 1.8, rtol=1e-5)
    np.testing.assert_allclose(scores[0, 0], ranks[0, 0] / ranks.sum(), rtol=1e-5)
    # The bias counts in the choice of groups, and in no gate.
    bias = jnp.array([0.0, 0.5, 0, 0, 0, 0, 0, 0, 0])
    chosen, gates, _ = choose(config, logits, bias)
    np.testing.assert_array_equal(chosen[0, 0], [0, 6, 1])
    np.testing.assert_allclose(gates[0, 0], np.array([0.9, 0.7, 0.1]) / 1.7, rtol=1e-5)
    # Without groups, the three best of all.
    chosen, _, _ = choose(dataclasses.replace(config, groups=1, groups_per_token=1), logits, None)
    np.testing.assert_array_equal(chosen[0, 0], [0, 6, 3])


def test_the_clamped_gate_by_hand():
    """Within the bounds and beyond each: min(g, 7) sigmoid(1.702 min(g, 7)) (clip(u, -7, 7) + 1)."""
    gate, up = jnp.array([0.5, 9.0, -9.0, 1.0]), jnp.array([2.0, 8.0, 3.0, -20.0])
    expected = [
        0.5 / (1 + np.exp(-1.702 * 0.5)) * 3,
        7 / (1 + np.exp(-1.702 * 7)) * 8,
        -9 / (1 + np.exp(1.702 * 9)) * 4,
        1 / (1 + np.exp(-1.702)) * -6,
    ]
    np.testing.assert_allclose(activated("swiglu_clamped", up, gate), expected, rtol=1e-5)


def test_a_routers_bias_is_added_to_its_logits():
    spec = module_spec(lambda key: Experts(changed(router_bias=True), rngs=nnx.Rngs(params=key)))
    params = tiny.random_params(spec)
    x_BTD = jax.random.normal(jax.random.key(0), (B, T, 16))
    logits_BTE = x_BTD @ params["router"]["weight"] + params["router"]["logit_bias"][None, None]
    np.testing.assert_allclose(spec.bind(params).router(x_BTD), logits_BTE, atol=1e-5)
    assert spec.kinds["router"]["logit_bias"] == "bias"


def test_a_bias_decides_who_is_chosen_and_not_with_what_weight():
    config = ExpertsConfig(number=3, per_token=2, scores="sigmoid", balance_bias=True)
    logits_11E = jnp.array([[[2.0, 1.0, 0.0]]])
    chosen, gates, _ = choose(config, logits_11E, jnp.array([-1.0, 0.3, 0.1]))
    np.testing.assert_array_equal(chosen[0, 0], [1, 2])
    scores = jax.nn.sigmoid(jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(gates[0, 0], scores / scores.sum(), rtol=1e-6)


BALANCED = changed(balance_bias=True, scores="sigmoid", every=2, shared=1, capacity_factor=1.0)
SGD = SGD(learning_rate=1.0, momentum=0.0, weight_decay=0.0, clip_norm=None)


@functools.cache
def step(mesh: MeshConfig | None = None, num_devices: int = 1, microbatches: int = 1):
    """The learner, parameters before and after one SGD step on ragged packed rows, and the step's metrics."""
    built = tiny.learner(model=BALANCED, mesh=mesh, num_devices=num_devices, optimizer=SGD, microbatches=microbatches)
    before = jax.device_get(tiny.random_params(built.spec))
    state = built.init(0)
    state = dataclasses.replace(state, params=jax.device_put(before, built.state_shardings.params))
    with jax.set_mesh(built.mesh):
        state, metrics = built.train_step(state, jax.device_put(tiny.random_rows(17), built.row_sharding))
    return built, before, jax.device_get(state.params), jax.device_get(metrics)


def experts_of(params):
    """Those of the second layer, which is the only one that has any."""
    return params["model"]["stacks"]["001"]["experts"]


@pytest.mark.long
def test_devices_and_microbatches_equal_one_device_in_loss_and_gradient():
    _, _, expected, expected_metrics = step()
    built, _, after, metrics = step(MESH, 8, 2)
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, atol=1e-5, rtol=1e-5, err_msg=name)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-4), after, expected)
    up = experts_of(built.state_shardings.params)["up"]["weight"]
    assert up.shard_shape((1, 4, 16, 32)) == (1, 2, 8, 16)


@pytest.mark.long
def test_a_step_moves_biases_against_the_load_and_reports_it():
    built, before, after, metrics = step()
    batch = built.objective.corrupt(None, tiny.random_rows(17), tiny.VOCABULARY)
    weights_B = batch.weights["loss"].sum(1) / batch.weights["loss"].sum()

    @jax.jit
    def routed(params, inputs):
        def along_bias(params):
            routing = built.spec.bind(params)(inputs).routing
            return jnp.sum(routing.bias_B @ weights_B), routing

        (_, routing), gradient = jax.value_and_grad(along_bias, has_aux=True)(params)
        return routing, experts_of(gradient)["router"]["bias"][0]

    routing, load_E = routed(before, batch.inputs)
    for name in ("balance", "router_z", "dropped", "max_load"):
        expected = np.asarray(getattr(routing, f"{name}_B")[0]) @ np.asarray(weights_B)
        np.testing.assert_allclose(metrics[f"experts/{name}"], expected, rtol=1e-5)
    assert metrics["experts/dropped"] > 0.01
    loss = 0.01 * metrics["experts/balance"] + 0.1 * metrics["experts/router_z"]
    np.testing.assert_allclose(metrics["experts/loss"], loss, rtol=1e-5)
    assert metrics["scored_tokens"] == np.sum(np.asarray(batch.weights["loss"]) > 0)
    moved_E = experts_of(after)["router"]["bias"][0] - experts_of(before)["router"]["bias"][0]
    np.testing.assert_allclose(moved_E, -1e-3 * np.sign(load_E), atol=1e-7)
    assert set(np.sign(moved_E)) == {-1, 1}
    # Other padding is no other load: it is neither counted nor given room.
    valid_BT = batch.inputs.valid_BT
    padded_otherwise = dataclasses.replace(batch.inputs, tokens_BT=jnp.where(valid_BT, batch.inputs.tokens_BT, 7))
    assert not jnp.array_equal(padded_otherwise.tokens_BT, batch.inputs.tokens_BT)
    jax.tree.map(np.testing.assert_array_equal, routed(before, padded_otherwise), (routing, load_E))


def kind(block) -> str:
    return "e" if block.has_experts else "-"


def test_layers_with_experts_are_where_the_configuration_says():
    for every, first_dense, scan_layers, expected in (
        (1, 0, True, "eeeee"),
        (2, 0, True, "-e-e-"),
        (2, 3, True, "---e-"),
        (1, 2, False, "--eee"),
    ):
        model = dataclasses.replace(MODEL, num_layers=5, execution=ExecutionConfig(scan_layers=scan_layers))
        spec = tiny.model_spec(changed(model, every=every, first_dense=first_dense))
        names = []
        jax.eval_shape(
            lambda params, spec=spec, names=names: names.extend(map(kind, spec.bind(params).layers())), spec.shapes
        )
        assert "".join(names) == expected


def test_encoder_and_decoder_route_and_report_in_one_record():
    model = changed(dataclasses.replace(MODEL, encoder_layers=3))
    spec = tiny.model_spec(model)
    stream = make_stream(jnp.zeros((B, T), jnp.int32), jnp.ones((B, T), jnp.int32), "bidirectional")

    def routed(params):
        return spec.bind(params)(stream, encoder=stream, cross_mask=stream.mask).routing

    routing = jax.eval_shape(routed, spec.shapes)
    assert {leaf.shape for leaf in jax.tree.leaves(routing)} == {(3 + 2, B)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"per_token": 5}, "model.experts.per_token=5: must be from 1 to model.experts.number=4"),
        ({"per_token": 1}, "a single gate divided by itself is 1 .*: set normalize_gates to False"),
        ({"capacity_factor": 0.0}, "model.experts.capacity_factor=0.0: must be positive"),
        ({"scores": "tanh"}, "model.experts.scores='tanh': use one of softmax, sigmoid"),
        ({"every": 3}, "none of the 2 layers has experts with every=3"),
        ({"groups": 3}, "model.experts.groups=3: must divide model.experts.number=4 into groups of at least 2"),
        ({"groups": 4}, "model.experts.groups=4: must divide"),
        ({"groups": 2, "groups_per_token": 3}, "groups_per_token=3: must be from 1 to model.experts.groups=2"),
        ({"groups": 2, "per_token": 3}, "groups_per_token=1: .* have model.experts.per_token=3 experts among them"),
        ({"first_dense": -1}, "model.experts.first_dense=-1: must be at least 0"),
    ],
)
def test_impossible_experts_are_refused_by_field(fields, words):
    with pytest.raises(ValueError, match=words):
        changed(**fields)


def test_tokens_cost_the_experts_they_go_to():
    dense = summarize(tiny.model_spec(tiny.MODEL), tiny.MODEL, sequence_length=8)
    mixed = summarize(tiny.model_spec(MODEL), MODEL, sequence_length=8)
    expert, router = 3 * 16 * 32, 16 * 4
    assert mixed.parameters == dense.parameters + 2 * (3 * expert + router)
    assert mixed.idle_parameters == 2 * 2 * expert
    assert mixed.flops_per_token == dense.flops_per_token + 6 * 2 * (expert + router)
