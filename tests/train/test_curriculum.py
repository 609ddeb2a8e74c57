"""Rows and scalars that change in training: nothing repeated or skipped, one compile a length, exact resumes."""

import dataclasses
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny_run import config, write_corpus

from lmjax.cli.recipe import parse_recipe
from lmjax.data.manifest import Manifest, token_dtype
from lmjax.data.prepare.shard_writer import ShardWriter
from lmjax.data.rows.blocks import PackedRows, WindowRows
from lmjax.data.rows.mixture import MixtureRows
from lmjax.data.rows.shard_reader import open_shards
from lmjax.models.execution import ExecutionConfig
from lmjax.objectives import CausalLM, FillInMiddle, MaskedLM, Mixture, Part, Ramp, ReplacedToken, SpanCorruption
from lmjax.objectives.parts.scored_positions import slots
from lmjax.schedules.ramp import SHAPES, at_step, current
from lmjax.train import loop, plan
from lmjax.train.components import components_of
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.config_file import from_json, to_json
from lmjax.train.curriculum import curriculum
from lmjax.train.metrics import read_metrics

pytestmark = [pytest.mark.run, pytest.mark.usefixtures("one_device")]

LENGTHS = [[40, 3, 90, 17], [64, 64, 1, 25, 130]]
WARMUP = TrainConfig(batch_size=2, sequence_length=16, sequence_warmup=((3, 4), (5, 8)))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Documents whose tokens are 1, 2, 3, ...: each says where it comes from."""
    folder = tmp_path_factory.mktemp("shards")
    written, token = [], 1
    for number, lengths in enumerate(LENGTHS):
        writer = ShardWriter(folder, f"train-{number:05d}", split="train", vocabulary_size=1 << 20, weighted=False)
        for length in lengths:
            writer.add(np.arange(token, token + length), weights=None)
            token += length
        written.append(writer.finish())
    Manifest(
        dtype=token_dtype(1 << 20).name, weighted=False, vocabulary_size=1 << 20, pad_id=0,
        tokenizer_fingerprint="", settings={}, source={}, shards=tuple(written),
    ).save(folder)  # fmt: skip
    return open_shards(folder, "train")


def sources(shards, **options):
    windows, packed = WindowRows(shards, **options), PackedRows(shards, **options)
    return {"windows": windows, "best_fit": packed, "mixture": MixtureRows([windows, packed], [2.0, 1.0])}


@pytest.mark.parametrize("objective", [CausalLM(), MaskedLM()], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("keeps", ["tokens", "rows"])
def test_a_change_of_length_repeats_and_skips_no_token_and_a_resume_goes_on(shards, objective, keeps):
    train = dataclasses.replace(WARMUP, warmup_keeps=keeps)
    if keeps == "rows":
        train = dataclasses.replace(train, sequence_warmup=((4, 4), (6, 8)))
    phases = curriculum(objective, train)
    assert [phase.batch_size for phase in phases.phases] == ([8, 4, 2] if keeps == "tokens" else [2, 2, 2])
    options = {"row_length": objective.row_length(16), "overlap": phases.overlap, "seed": 3}
    for kind, rows in sources(shards, **options).items():
        batches = list(itertools.islice(phases.batches(rows), 10))
        own = np.concatenate([batch.tokens_BT[:, : phases.at(s).stride].ravel() for s, batch in enumerate(batches)])
        assert len(own) == phases.at(10).consumed(10)
        # The blocks of an unchanging run, in its order, and whole.
        blocks = rows.rows(range(-(-len(own) // 16))).tokens_BT[:, :16].ravel()
        np.testing.assert_array_equal(own, blocks[: len(own)])
        if kind == "windows":
            # Every token of a block is predicted exactly once in the epoch.
            steps = [s for s in range(10) if phases.at(s).consumed(s + 1) <= 16 * len(rows)]
            ahead = 1 if phases.overlap else 0
            targets = np.concatenate([batches[s].tokens_BT[:, ahead:].ravel() for s in steps])
            assert len(np.unique(targets)) == len(targets) == phases.at(steps[-1]).consumed(steps[-1] + 1)
        for start in range(1, 9):
            resumed = next(phases.batches(rows, start_step=start))
            jax.tree.map(np.testing.assert_array_equal, resumed, batches[start])


def test_a_run_without_warm_up_is_one_phase_whose_rows_share_nothing():
    (phase,) = curriculum(CausalLM(), TrainConfig(batch_size=4, sequence_length=16)).phases
    assert (phase.row_length, phase.stride, phase.batch_size, phase.first_row, phase.end_step) == (17, 17, 4, 0, None)


def mixed_run(folder) -> RunConfig:
    """Two objectives in turn, one with a rate that falls, at two lengths."""
    parts = (
        Part(name="causal", objective=CausalLM()),
        Part(name="masked", objective=MaskedLM(rate=Ramp(start=0.6, end=0.2, steps=6)), weight=2.0),
    )
    base = config(folder, objective_name="CausalLM")
    train = dataclasses.replace(
        base.train, steps=8, sequence_length=16, sequence_warmup=((4, 8),), batch_size=4, eval_every=4, eval_batches=1,
        ema_decay=None, log_every=2,
    )  # fmt: skip
    model = dataclasses.replace(base.model, num_layers=1, execution=ExecutionConfig(scan_layers=False, remat="none"))
    return dataclasses.replace(base, objective=Mixture(parts=parts, by="step"), model=model, train=train)


@pytest.mark.long
def test_a_run_in_turns_at_two_lengths_compiles_once_for_each_and_resumes_to_the_last_bit(tmp_path, monkeypatch):
    learners = []
    build = plan.learner_on
    monkeypatch.setattr(plan, "learner_on", lambda *given: learners.append(build(*given)) or learners[-1])
    whole, parted = mixed_run(tmp_path / "whole"), mixed_run(tmp_path / "parted")
    for one in (whole, parted):
        write_corpus(tmp_path / one.folder / ".." / "text")
    loop.train(whole, say=lambda _: None)
    (learner,) = learners
    for component in components_of(whole.objective):
        assert learner.of(component).train_step._cache_size() == 2
        assert learner.of(component).eval_step._cache_size() == 1
    assert learner.train_step._cache_size() == 0
    monkeypatch.setattr("lmjax.train.guard.GracefulExit.should_stop", lambda self, step: step == 3)
    assert [loop.train(parted, say=lambda _: None).step for _ in range(2)] == [3, 8]
    lines, again = (read_metrics(tmp_path / name / "run") for name in ("whole", "parted"))
    times = {"tokens_per_second", "waiting_for_rows", "goodput"}
    timeless, timeless_again = (
        [{name: number for name, number in line.items() if name not in times} for line in each]
        for each in (lines, again)
    )
    assert timeless == timeless_again
    # Each objective is logged by its own count, validated at the final length, and told apart by name.
    rates = {line["step"]: line["train/masked/rate"] for line in lines if "train/masked/rate" in line}
    for step, rate in rates.items():
        assert rate == pytest.approx(max(0.6 - 0.4 * (step - 1) / 6, 0.2))
    assert len(rates) >= 2 and any("train/causal/loss" in line for line in lines)
    assert not any("train/causal/rate" in line for line in lines)
    assert {"valid/loss", "valid/causal/perplexity", "valid/masked/loss"} <= lines[-1].keys()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_ramp_goes_from_one_end_to_the_other_and_stays(shape):
    ramp = Ramp(start=0.4, end=0.1, steps=100, shape=shape)
    values = np.array(jax.vmap(ramp.value)(jnp.arange(201)))
    np.testing.assert_allclose(values[[0, 100, 200]], [0.4, 0.1, 0.1], rtol=1e-6)
    assert (np.diff(values[:101]) <= 0).all() and (values[100:] == values[100]).all()
    quarter, half = {
        "linear": (0.325, 0.25),
        "cosine": (0.1 + 0.3 * (1 + math.sqrt(0.5)) / 2, 0.25),
        "exponential": (0.4 * 0.25**0.25, 0.2),
        # k log k = 50 at k = 17.45, and 17.45 / (17.45 + exp(25 / 17.45)) = 0.8064, stretched.
        "inverse_sigmoid": (0.1 + 0.3 * (0.8064 * 18.45 - 1) / 16.45, 0.25),
        "step": (0.4, 0.4),
    }[shape]
    np.testing.assert_allclose(values[[25, 50]], [quarter, half], atol=1e-3)
    rising = dataclasses.replace(ramp, start=0.1, end=0.4).value(50)
    np.testing.assert_allclose(rising, 0.1 if shape == "step" else half, atol=1e-3)
    assert Ramp.parse(str(ramp)) == ramp


def test_a_rate_follows_its_schedule_in_slots_for_the_highest_and_ends_in_evaluation():
    objective = MaskedLM(rate=Ramp(start=0.4, end=0.1, steps=10))
    rows = tiny.random_rows(256, num_rows=64, packed=False)
    corrupt = jax.jit(lambda step: at_step(objective, step).corrupt(jax.random.key(0), rows, tiny.VOCABULARY))
    for step, rate in ((0, 0.4), (5, 0.25), (50, 0.1)):
        batch = corrupt(step)
        assert batch.scored_BP.shape == (64, slots(256, 0.4))
        share = float((batch.weights["loss"] > 0).sum()) / rows.tokens_BT.size
        assert abs(share - rate) < 4 * math.sqrt(rate * (1 - rate) / rows.tokens_BT.size)
    assert corrupt._cache_size() == 1
    assert objective.for_evaluation() == MaskedLM(rate=0.1)
    with pytest.raises(TypeError, match="0.4:0.1:10:linear has no value without a step"):
        current(objective.rate)


def test_what_becomes_of_chosen_tokens_follows_its_schedule():
    ramp = Ramp(start=1.0, end=0.2, steps=10)
    objective = MaskedLM(rate=0.4, mask_fraction=ramp, random_fraction=0.0)
    rows = tiny.random_rows(256, num_rows=64, packed=False)
    corrupt = jax.jit(lambda step: at_step(objective, step).corrupt(jax.random.key(0), rows, tiny.VOCABULARY))
    for step, share in ((0, 1.0), (5, 0.6), (10, 0.2)):
        batch = corrupt(step)
        masked, chosen = (batch.inputs.tokens_BT == tiny.VOCABULARY.mask_id).sum(), (batch.weights["loss"] > 0).sum()
        assert abs(masked / chosen - share) <= 4 * math.sqrt(share * (1 - share) / int(chosen))
    with pytest.raises(ValueError, match="objective.mask_fraction=1.0:0.2:10:linear and objective.random_fraction=0.1"):
        MaskedLM(mask_fraction=ramp)


def test_a_scheduled_coefficient_and_temperature_are_those_of_the_step():
    weight, temperature = Ramp(start=50.0, end=10.0, steps=4), Ramp(start=2.0, end=0.5, steps=4, shape="exponential")
    there = at_step(ReplacedToken(discriminator_weight=weight, temperature=temperature), jnp.int32(2))
    terms = {"generator": jnp.float32(1.0), "discriminator": jnp.float32(2.0)}
    assert float(there.total(terms)) == pytest.approx(1 + 30 * 2)
    assert float(current(there.temperature)) == pytest.approx(1.0)


RECIPE = """
from lmjax.objectives import MaskedLM
from lmjax.train.config import RunConfig
def recipe():
    return RunConfig(name="x", objective=MaskedLM())
"""


def test_the_command_line_takes_a_number_or_a_schedule_and_json_keeps_it(tmp_path, capsys):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE)
    options = ["--objective.rate", "0.4:0.15:1000:cosine", "--train.sequence-warmup", "400", "32", "600", "64"]
    given = parse_recipe("train", [str(recipe), *options])
    assert given.objective.rate == Ramp(start=0.4, end=0.15, steps=1000, shape="cosine")
    assert given.train.sequence_warmup == ((400, 32), (600, 64))
    assert "objective.rate: 0.15 -> 0.4:0.15:1000:cosine" in capsys.readouterr().out
    assert from_json(RunConfig, json.loads(json.dumps(to_json(given)))) == given
    assert parse_recipe("train", [str(recipe), "--objective.rate", "0.2"]).objective.rate == 0.2
    with pytest.raises(SystemExit):
        parse_recipe("train", [str(recipe), "--objective.rate", "0.4:0.15"])
    message = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "'0.4:0.15' is not a schedule: write START:END:STEPS or" in message


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: MaskedLM(rate=Ramp(start=0.4, end=0.0, steps=5)), "objective.rate=0.4:0.0:5:linear: must lie between"),
        (
            lambda: SpanCorruption(density=Ramp(start=0.1, end=0.3, steps=5)),
            "objective.density=0.1:0.3:5:linear: SpanCorruption's density cannot follow a schedule: give a number",
        ),
        (
            lambda: ReplacedToken(generator_ratio=Ramp(start=0.1, end=0.3, steps=5)),
            r"ReplacedToken's generator_ratio cannot follow.*\(rate, discriminator_weight, temperature can\)",
        ),
        (lambda: Ramp(start=1.0, end=0.0, steps=5, shape="exponential"), "needs both ends above 0"),
        (lambda: Ramp(start=1.0, end=0.0, steps=0), "steps must be at least 1"),
        (lambda: Ramp(start=1.0, end=0.0, steps=1, shape="square"), "must be one of linear, cosine"),
        (lambda: dataclasses.replace(WARMUP, sequence_warmup=((5, 4), (3, 8))), "must be above 0 and rise"),
        (lambda: dataclasses.replace(WARMUP, sequence_warmup=((5, 16),)), "must be below train.sequence_length=16"),
        (lambda: dataclasses.replace(WARMUP, warmup_keeps="epochs"), "train.warmup_keeps='epochs'"),
        (
            lambda: curriculum(CausalLM(), dataclasses.replace(WARMUP, sequence_warmup=((5, 6),))),
            "a row of length 6 takes 6 tokens of the data for CausalLM, .* takes 16, .*lengths such as 1, 2, 4, 8",
        ),
        (
            lambda: curriculum(FillInMiddle(), dataclasses.replace(WARMUP, sequence_warmup=((5, 8),))),
            "a row of length 8 takes 6 tokens of the data for FillInMiddle, .* takes 14, .*such as 3, 4, 9",
        ),
        (
            lambda: curriculum(
                CausalLM(), dataclasses.replace(WARMUP, sequence_warmup=((3, 4),), warmup_keeps="rows")
            ),
            "the 24 tokens used by step 3 are no multiple of the 16 of a row.* or change at step 4",
        ),
    ],
)  # fmt: skip
def test_what_cannot_change_is_refused_by_field(build, words):
    with pytest.raises(ValueError, match=words):
        build()
