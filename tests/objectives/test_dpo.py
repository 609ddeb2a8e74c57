"""DPO against log-probabilities of answers read one by one, and a reference that never moves."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import module_spec
from lmjax.objectives import DPO, CausalLM
from lmjax.parallel.mesh import MeshConfig
from lmjax.schedules.ramp import Ramp, at_step
from lmjax.train.initial import adopted_params
from lmjax.train.optimizers import AdamW
from lmjax.types import make_stream

KEY = jax.random.key(0)
MODEL = dataclasses.replace(tiny.MODEL, num_layers=1, execution=ExecutionConfig(scan_layers=False, remat="none"))
OBJECTIVE = DPO(beta=0.3)
ROWS = tiny.example_rows(2, 9, num_rows=4, prompt=3)


corrupt = jax.jit(functools.partial(OBJECTIVE.corrupt, KEY, vocabulary=tiny.VOCABULARY))


@functools.cache
def spec():
    return module_spec(lambda key: OBJECTIVE.build(MODEL, rngs=nnx.Rngs(params=key)))


def log_ratios(params):
    """Policy over reference of each response, each in a row of its own, from all of its logits, [B, 2]."""
    rows = list(zip(*map(np.asarray, (ROWS.tokens_BT, ROWS.segments_BT, ROWS.weights_BT)), strict=True))
    answers = [(tokens[there == n], weights[there == n]) for tokens, there, weights in rows for n in (1, 2)]
    alone = tiny.one_text_a_row([tokens for tokens, _ in answers], 9)

    @jax.jit
    def log_probs(params):
        model = tiny.model_spec(MODEL).bind(params)
        return jax.nn.log_softmax(
            model.logits(model(make_stream(alone.tokens_BT, alone.segments_BT, "causal")).states_BTD)
        )

    def of(params):
        found = np.asarray(log_probs(params), np.float64)
        return [
            (lines[np.arange(len(tokens) - 1), tokens[1:]] * weights[1:]).sum()
            for lines, (tokens, weights) in zip(found, answers, strict=True)
        ]

    return np.subtract(of(params["model"]), of(params["extras"]["reference"])).reshape(-1, 2)


OBJECTIVES = {
    "dpo": OBJECTIVE,
    "conservative": DPO(beta=0.3, label_smoothing=0.2),
    "ipo": DPO(beta=0.3, variant="ipo"),
    "rising": at_step(DPO(beta=Ramp(start=0.1, end=0.3, steps=5)), 5),
}


def test_terms_by_hand_and_no_gradient_for_the_reference():
    params = tiny.random_params(spec())
    batch = corrupt(ROWS)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient_and_terms(params):
        terms = {name: o.terms(spec().bind(params), batch, None).sums for name, o in OBJECTIVES.items()}
        return sum(o.total(terms[name]) for name, o in OBJECTIVES.items()), terms

    gradient, terms = gradient_and_terms(params)
    ratios = log_ratios(params)
    h = ratios[:, 0] - ratios[:, 1]
    right, wrong = np.log1p(np.exp(-0.3 * h)), np.log1p(np.exp(0.3 * h))
    losses = {"dpo": right, "conservative": 0.8 * right + 0.2 * wrong, "ipo": np.square(h - 1 / 0.6), "rising": right}
    for name, expected in losses.items():
        assert float(terms[name]["preference"]) == pytest.approx(expected.sum(), rel=1e-5)
        assert float(OBJECTIVES[name].total(terms[name])) == float(terms[name]["preference"])
    looked_at = {
        "margin": (0.3 * h).sum(),
        "accuracy": (h > 0).sum(),
        "chosen_reward": 0.3 * ratios[:, 0].sum(),
        "rejected_reward": 0.3 * ratios[:, 1].sum(),
    }
    assert {name: float(terms["dpo"][name]) for name in looked_at} == pytest.approx(looked_at, rel=1e-4)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["extras"]["reference"]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient["model"]))


def test_pairs_without_a_response_do_not_count():
    weights = np.asarray(ROWS.weights_BT).copy()
    weights[1, :9] = 0
    rows = dataclasses.replace(ROWS, weights_BT=jnp.asarray(weights))
    batch = corrupt(rows)
    assert {tuple(w.tolist()) for w in batch.weights.values()} == {(1.0, 0.0, 1.0, 1.0)}
    plain = OBJECTIVE.corrupt(KEY, rows, tiny.VOCABULARY)
    jax.tree.map(np.testing.assert_array_equal, batch, plain)


def trained():
    """The first parameters, the metrics of three steps and the state after them."""
    optimizer = AdamW(learning_rate=1e-2, weight_decay=0.5)
    built = tiny.learner(OBJECTIVE, model=MODEL, optimizer=optimizer, ema_decay=0.5)
    state = built.init(0)
    first, metrics = jax.device_get(state.params), []
    with jax.set_mesh(built.mesh):
        for step in range(3):
            rows = tiny.example_rows(2, 9, prompt=3, seed=step)
            state, numbers = built.train_step(state, jax.device_put(rows, built.row_sharding))
            metrics.append(jax.device_get(numbers))
    return first, metrics, jax.device_get((state.params, state.opt_state, state.ema))


def test_the_reference_is_the_first_policy_and_stays_as_it_is():
    first, metrics, (params, opt_state, ema) = trained()
    # Nothing has been preferred yet: every log-ratio is 0, but for rounding.
    assert metrics[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert abs(metrics[0]["margin"]) < 1e-5 < abs(metrics[2]["margin"])
    for tree in (first, params, ema):
        jax.tree.map(np.testing.assert_array_equal, tree["extras"]["reference"], first["model"])
    for tree in (params, ema):
        moved = [not np.array_equal(*leaves) for leaves in zip(*map(jax.tree.leaves, (tree, first)), strict=True)]
        assert sum(moved) == len(moved) / 2
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (opt_state, params)]
    assert sizes[0] == pytest.approx(sizes[1], abs=4), "two moments of half the parameters, and counts"


def test_the_reference_lies_on_the_devices_as_the_policy_does():
    built = tiny.learner(OBJECTIVE, model=MODEL, num_devices=8, mesh=MeshConfig(fsdp=2, tensor=2, data=2))
    shardings = built.state_shardings.params
    assert shardings["extras"]["reference"] == shardings["model"]


def test_another_runs_model_is_policy_and_reference():
    saved, fresh = tiny.random_params(tiny.model_spec(MODEL)), tiny.random_params(spec(), seed=1)
    given, whole = {"model": saved}, {"model": saved, "extras": {"reference": saved}}
    assert adopted_params(OBJECTIVE, fresh, given, source=CausalLM()) == whole
    # Also a policy's: preferences start anew from where it came to.
    other = {"model": saved, "extras": {"reference": 0}}
    assert adopted_params(OBJECTIVE, fresh, other, source=OBJECTIVE) == whole
    assert adopted_params(CausalLM(), given, other, source=OBJECTIVE) == given


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": 0.0}, "objective.beta=0.0: must be above 0"),
        ({"variant": "hinge"}, "objective.variant='hinge'"),
        ({"label_smoothing": 0.5}, "objective.label_smoothing=0.5"),
        ({"label_smoothing": 0.1, "variant": "ipo"}, "IPO has none: set it to 0"),
    ],
)
def test_impossible_hyperparameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        DPO(**options)
