"""Several objectives in one run: each has its share of steps or rows, its own mean, and nothing of the others'."""

import dataclasses
import json
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny_run import config

from lmjax.cli import preview
from lmjax.field_types import check_types
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import CausalLM, FillInMiddle, MaskedLM, Mixture, MultiTokenLM, Objective, Part, Ramp
from lmjax.objectives import UnlikelihoodLM as Unlikelihood
from lmjax.objectives.parts.objective import Traits
from lmjax.train.components import Component, turn_of
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.config_file import from_json, to_json
from lmjax.train.optimizers import SGD
from lmjax.train.setup import build_learner, resolve
from lmjax.train.step import step_keys
from lmjax.train.validate import validate

MODEL = dataclasses.replace(
    tiny.MODEL, num_layers=1, num_heads=4, execution=ExecutionConfig(scan_layers=False, remat="none")
)
MARKERS = {"<fim_prefix>": 57, "<fim_suffix>": 58, "<fim_middle>": 59}
VOCABULARY = dataclasses.replace(tiny.VOCABULARY, named_ids=MARKERS)
OBJECTIVES: dict[str, Objective] = {
    "causal": CausalLM(),
    "masked": MaskedLM(rate=0.3),
    "unlike": Unlikelihood(alpha=0.5, window=4),
}


def mixture(by="row", **weights) -> Mixture:
    weights = weights or {"causal": 1.0, "masked": 1.0}
    parts = tuple(Part(name=name, objective=OBJECTIVES[name], weight=weight) for name, weight in weights.items())
    return Mixture(parts=parts, by=by)


def learner(objective: Objective, **options):
    return tiny.learner(objective, model=MODEL, vocabulary=VOCABULARY, **options)


@pytest.mark.long
def test_gradient_is_the_weighted_sum_of_each_objectives_own_on_its_rows():
    shares = {"masked": 0.75, "unlike": 0.25}
    objective = mixture(**shares)
    optimizer = SGD(learning_rate=1.0, momentum=0.0, weight_decay=0.0, clip_norm=None)
    built = learner(objective, optimizer=optimizer)
    rows = tiny.random_rows(17)
    state = built.init(0)
    before = jax.tree.map(np.asarray, state.params)
    batch = objective.corrupt(step_keys(state.key, 0)[0], rows, VOCABULARY)

    @jax.jit
    def gradients(params, batch):
        sums, losses = jax.tree.map(jnp.zeros_like, params), {}
        for part in objective.parts:
            weights = {
                name.split("/")[1]: weight / weight.sum()
                for name, weight in batch.weights.items()
                if name.startswith(part.name)
            }
            own = dataclasses.replace(batch.parts[part.name], weights=weights)

            def loss(params, part=part, own=own):
                terms = part.objective.terms(built.spec.bind(params), own, None).sums
                return sum(part.objective.coefficients().get(name, 1.0) * value for name, value in terms.items())

            losses[part.name], grads = jax.value_and_grad(loss)(params)
            share = shares[part.name]
            sums = jax.tree.map(lambda total, grad, share=share: total + share * grad, sums, grads)
        return sums, losses

    grads, losses = gradients(before, batch)
    state, metrics = built.train_step(state, jax.device_put(rows, built.row_sharding))
    jax.tree.map(lambda old, new, g: np.testing.assert_allclose(old - new, g, atol=1e-5), before, state.params, grads)
    for name, loss in losses.items():
        np.testing.assert_allclose(metrics[f"{name}/loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], sum(shares[name] * loss for name, loss in losses.items()), rtol=1e-5)
    assert {"unlike/loss/loss", "unlike/unlikelihood/loss", "masked/scored_tokens"} <= metrics.keys()
    assert built.train_step._cache_size() == 1


def test_rows_are_divided_in_exact_shares_within_every_period_and_anew_by_the_key():
    objective = mixture(causal=3.0, masked=1.5, unlike=1.5)
    assert objective.traits.row_multiple == 4
    ids = jnp.broadcast_to(jnp.arange(48, dtype=jnp.int32)[:, None], (48, 17))
    rows = dataclasses.replace(tiny.random_rows(17, num_rows=48), tokens_BT=ids)
    divide = jax.jit(objective.divide)
    owners = np.zeros((100, 48), int)
    for seed in range(100):
        divided = divide(jax.random.key(seed), rows)
        assert {name: len(own.tokens_BT) for name, own in divided.items()} == {"causal": 24, "masked": 12, "unlike": 12}
        for number, own in enumerate(divided.values()):
            owned = np.asarray(own.tokens_BT[:, 0])
            owners[seed, owned] = number
            # A row keeps its segments, and each objective has its share of every four rows.
            np.testing.assert_array_equal(own.segments_BT, rows.segments_BT[owned])
            assert set(np.bincount(owned // 4, minlength=12)) == {2 if number == 0 else 1}
    # No row is any objective's more often than its share, within four standard errors.
    share = (owners == 0).mean(0)
    assert np.abs(share - 0.5).max() < 4 * np.sqrt(0.25 / 100)
    assert Fraction(1, 2) == objective.shares[0]


def test_objectives_take_what_they_need_of_rows_as_long_as_the_longest():
    parts = (Part(name="causal", objective=CausalLM()), Part(name="fim", objective=FillInMiddle()))
    objective = Mixture(parts=parts, by="row")
    assert objective.row_length(16) == 17
    rows = tiny.random_rows(17, packed=False)
    batch = jax.eval_shape(lambda rows: objective.corrupt(jax.random.key(0), rows, VOCABULARY), rows)
    assert [batch.parts[name].inputs.tokens_BT.shape for name in ("causal", "fim")] == [(4, 16), (4, 16)]


def test_validation_measures_each_objective_on_all_rows_as_in_a_run_of_its_own():
    built = learner(mixture("step", causal=3.0, masked=1.0))
    params = built.init(0).params
    rows = [tiny.random_rows(17, seed=seed) for seed in range(2)]
    numbers = validate(built, params, rows)
    own_rows = {"causal": rows, "masked": [jax.tree.map(lambda array: array[:, :16], batch) for batch in rows]}
    for name, given in own_rows.items():
        alone = validate(learner(OBJECTIVES[name]), params, given)
        assert {f"{name}/{metric}": value for metric, value in alone.items()}.items() <= numbers.items()
    assert numbers["loss"] == pytest.approx(0.75 * numbers["causal/loss"] + 0.25 * numbers["masked/loss"])


def test_steps_are_shared_out_exactly_and_evenly_by_their_number_alone():
    objective = mixture("step", causal=2.0, masked=1.0, unlike=0.5)
    turns = [turn_of(objective, step) for step in range(700)]
    names = [turn.component.name for turn in turns]
    assert {name: names.count(name) for name in OBJECTIVES} == {"causal": 400, "masked": 200, "unlike": 100}
    for name, share in (("causal", 4 / 7), ("masked", 2 / 7), ("unlike", 1 / 7)):
        counts = np.cumsum([own == name for own in names])
        assert np.abs(counts - share * np.arange(1, 701)).max() < 3
        assert [turn.before for turn in turns if turn.component.name == name] == list(range(counts[-1]))
    by_row = turn_of(mixture("row"), 5)
    assert (by_row.component, by_row.before) == (Component(objective=mixture("row")), 5)


def test_a_mixture_survives_json_with_its_objectives_and_schedules():
    parts = (Part(name="a", objective=MaskedLM(rate=Ramp(start=0.4, end=0.15, steps=7)), weight=2.0),)
    recipe = RunConfig(name="x", objective=Mixture(parts=(*parts, *mixture().parts), by="row"))
    assert from_json(RunConfig, json.loads(json.dumps(to_json(recipe)))) == recipe
    check_types(recipe)
    with pytest.raises(ValueError, match=r"objective.parts.0.objective.rate is '0.4': must be"):
        broken = MaskedLM()
        object.__setattr__(broken, "rate", "0.4")
        check_types(RunConfig(name="x", objective=Mixture(parts=(Part(name="a", objective=broken),))))


RECIPE = """
from lmjax.objectives import CausalLM, MaskedLM, Mixture, Part
from lmjax.tokenizers import TokenizerConfig
from lmjax.objectives.parts.objective import Traits
from lmjax.train.components import Component, turn_of
from lmjax.train.config import RunConfig

def recipe():
    parts = (Part(name="causal", objective=CausalLM()), Part(name="masked", objective=MaskedLM()))
    return RunConfig(
        name="x", objective=Mixture(parts=parts), tokenizer=TokenizerConfig(kind="bytes")
    )
"""


def test_preview_shows_the_rows_of_each_objective_and_options_reach_into_them(tmp_path, capsys):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE)
    preview.run([str(recipe), "--rows", "1", "--text", "some words", "--objective.parts.1.objective.rate", "0.9"])
    shown = capsys.readouterr().out
    assert "objective.parts.1.objective.rate: 0.15 -> 0.9" in shown
    assert "causal, row 0" in shown and "masked, row 0" in shown and "MaskedLM(rate=0.9)" in shown


class Coupled(CausalLM):
    traits = Traits(couples_examples=True)


@pytest.mark.parametrize(
    ("objective", "train", "words"),
    [
        (
            mixture("row", causal=1, masked=2),
            TrainConfig(batch_size=8),
            "divides rows by the 3: make it a multiple of 3",
        ),
        (
            mixture("row"),
            TrainConfig(batch_size=8, microbatches=8),
            "leaves 1 rows to a microbatch on a device.*multiple of 16",
        ),
        (
            Mixture(parts=(*mixture().parts, Part(name="heads", objective=MultiTokenLM(num_heads=2)))),
            TrainConfig(),
            r"'heads' \(MultiTokenLM\) and 'causal' \(CausalLM\) do not train the same model: they differ in .* and",
        ),
        (
            Mixture(parts=(Part(name="pairs", objective=Coupled()),), by="row"),
            TrainConfig(),
            r"objective.by='row': 'pairs' \(Coupled\) compares the rows of a batch",
        ),
        (
            Mixture(parts=(Part(name="pairs", objective=Coupled()),)),
            TrainConfig(microbatches=2),
            "train.microbatches=2: Coupled compares the examples",
        ),
        (
            Mixture(parts=(Part(name="fim", objective=FillInMiddle(markers=("<a>", "<b>", "<c>"))),)),
            TrainConfig(),
            "'fim' of the mixture: FillInMiddle needs a '<a>' token",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused_before_compiling(tmp_path, objective, train, words):
    base = dataclasses.replace(config(tmp_path), objective=objective, train=train)
    with pytest.raises(ValueError, match=words):
        build_learner(resolve(base, VOCABULARY), VOCABULARY, devices=jax.devices()[:1])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Mixture(), r"objective.parts=\(\): give at least one"),
        (lambda: Mixture(parts=mixture().parts * 2), "are named causal, masked, causal, masked: give each a name"),
        (lambda: mixture("epoch"), "objective.by='epoch': use one of step, row"),
        (lambda: Part(name="a/b", objective=CausalLM()), "name='a/b': use letters"),
        (lambda: Part(name="a", objective=CausalLM(), weight=0.0), "weight=0.0 of 'a': must be above 0"),
        (lambda: Part(name="a", objective=mixture()), "'a' is a mixture itself"),
    ],
)
def test_impossible_mixtures_are_refused_by_field(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_a_mixture_by_step_has_no_batch_of_its_own():
    with pytest.raises(TypeError, match="see lmjax.train.components.turn_of"):
        mixture("step").corrupt(jax.random.key(0), tiny.random_rows(17), VOCABULARY)
