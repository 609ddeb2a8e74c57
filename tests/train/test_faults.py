"""A batch that makes NaN and a batch of noise, under each policy, against the run that never had them."""

import dataclasses
import itertools
import json
import re
import types
from fractions import Fraction
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planted import BATCH, NAN_BATCH, NAN_ROW, NOISE_BATCH, UPDATES, planted, planted_config
from tiny_run import on_one_device, write_corpus

from lmjax.cli.inspect import run as inspect
from lmjax.data.config import DataConfig
from lmjax.data.mixing import Source, Stage, weights_by_step
from lmjax.data.rows.mixture import MixtureRows
from lmjax.objectives import CausalLM
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.curriculum import Gap, curriculum
from lmjax.train.epochs import epochs_at
from lmjax.train.faults import LossSpike, NonFiniteLoss, RollBack, SkipUpdate, Stop
from lmjax.train.faults.watch import from_json, judged, new_watch, to_json
from lmjax.train.loop import train
from lmjax.train.metrics import read_metrics
from lmjax.train.record import DataFacts, PassedOver, Record, read_record, write_record
from lmjax.train.resume import Origin, _check_mixing
from lmjax.train.state import TrainState

pytestmark = [pytest.mark.run, pytest.mark.usefixtures("one_device")]

WATCH = {"window": 4, "loss_ratio": 1.2, "grad_norm_ratio": None}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("faults") / "text")


@pytest.fixture(scope="module")
def without(text, tmp_path_factory):
    """The run that never had the bad batches. It also looks for hardware that computes wrong, which changes nothing."""
    folder = tmp_path_factory.mktemp("without") / "run"
    with on_one_device(), planted(bad=False):
        return train(planted_config(text, folder, Stop(), recompute_every=9, compare_replicas_every=6))


def last(result):
    """The losses that the run ends with: of its last step, and on the validation set."""
    line = read_metrics(result.folder)[-1]
    return [line["train/loss"], line["grad_norm"], line["valid/loss"]]


@pytest.mark.long
def test_skipped_updates_leave_no_trace_and_are_counted(text, tmp_path, without, monkeypatch):
    """The run is also stopped between the two bad batches, and goes on."""
    monkeypatch.setattr("lmjax.train.guard.GracefulExit.should_stop", lambda self, step: step == 11)
    base = planted_config(text, tmp_path / "run", SkipUpdate(**WATCH), steps=UPDATES + 2)
    with planted():
        stopped, result = train(base), train(base)
    assert [stopped.step, result.step] == [11, UPDATES + 2]
    np.testing.assert_allclose(last(result), last(without), atol=1e-6)
    lines = {line["step"]: line for line in read_metrics(result.folder)}
    assert np.isnan(lines[NAN_BATCH + 1]["train/loss"])
    assert lines[NOISE_BATCH + 1]["train/loss_ratio"] > 1.2
    counted = {step: line.get("skipped_updates", 0) for step, line in lines.items()}
    assert [counted[step] for step in (9, 10, 13, 14, 20)] == [0, 1, 1, 2, 2]


def test_a_roll_back_passes_over_the_rows_and_a_resume_passes_over_them_too(text, tmp_path, without, monkeypatch):
    """The run is also stopped right after the first roll-back, when no checkpoint knows of it yet."""
    monkeypatch.setattr("lmjax.train.guard.GracefulExit.should_stop", lambda self, step: step == 11)
    base = planted_config(text, tmp_path / "run", RollBack(**WATCH))
    with planted():
        stopped, result = train(base), train(base)
    assert [stopped.step, result.step] == [11, UPDATES]
    np.testing.assert_allclose(last(result), last(without), atol=1e-6)
    record = read_record(result.folder)
    assert [one.rows for one in record.passed_over] == [
        (NAN_BATCH * BATCH, (NAN_BATCH + 1) * BATCH),
        (NOISE_BATCH * BATCH, (NOISE_BATCH + 1) * BATCH),
    ]
    assert [one.step for one in record.passed_over] == [NAN_BATCH + 1, NOISE_BATCH]
    line = read_metrics(result.folder)[-1]
    assert (line["roll_backs"], line["rows_passed_over"]) == (2, 2 * BATCH)
    assert [one["step"] for one in read_metrics(result.folder)] == list(range(1, UPDATES + 1))


@pytest.fixture(scope="module")
def rolled_back(text, tmp_path_factory):
    """A run that passed over four batches when it met NaN, and met the noise in step 10 then."""
    folder = tmp_path_factory.mktemp("rolled_back") / "run"
    base = planted_config(text, folder, RollBack(**WATCH, before=2, after=1, limit=1))
    message = r"step 10: train/loss is .*has rolled back 1 times before \(on_fault.limit=1\)"
    with on_one_device(), planted(), pytest.raises(LossSpike, match=message):
        train(dataclasses.replace(base, checkpoint=dataclasses.replace(base.checkpoint, every_steps=3)))
    return folder


def test_a_roll_back_goes_behind_the_batches_before_the_fault_and_deletes_what_saw_them(rolled_back):
    (passed,) = read_record(rolled_back).passed_over
    assert passed.rows == ((NAN_BATCH - 2) * BATCH, (NAN_BATCH + 2) * BATCH)
    assert sorted(int(p.name) for p in (rolled_back / "checkpoints").iterdir()) == [3, 6, 9]


def test_inspect_shows_the_rows_that_were_passed_over_the_one_with_nan_first(rolled_back, capsys):
    with planted():
        inspect([str(rolled_back), "--step", str(NAN_BATCH + 1), "--roll-back", "1", "--rows", "2"])
        head, first, second, more = capsys.readouterr().out.splitlines()
    assert head == "step 10: 8 rows, measured with the parameters of step 9" and more.startswith("6 more rows")
    assert first.startswith(f"row {NAN_BATCH * BATCH + NAN_ROW}: loss nan, gradient norm nan: ")
    numbers = re.match(r"row (\d+): loss (\d\.\d+), gradient norm (\d\.\d+): '", second)
    assert numbers and NAN_BATCH * BATCH <= int(numbers[1]) < (NAN_BATCH + 1) * BATCH
    assert any(word in first for word in ("alpha", "beta", "gamma", "delta", "epsilon", "zeta"))
    with pytest.raises(ValueError, match="roll_back=2: .* has rolled back 1 times"):
        inspect([str(rolled_back), "--step", "10", "--roll-back", "2"])


def test_skips_in_a_row_are_bounded():
    fault = NonFiniteLoss("step 9: loss=nan", step=9, reason="loss=nan")
    policy = SkipUpdate(limit=2)
    assert policy.meet(fault, in_a_row=2) is None
    with pytest.raises(NonFiniteLoss, match=r"So were the 2 steps before it \(on_fault.limit=2\)"):
        policy.meet(fault, in_a_row=3)


def test_places_that_are_passed_over_are_read_by_no_step_and_all_others_by_one():
    base = TrainConfig(batch_size=2, sequence_length=16, sequence_warmup=((3, 4), (5, 8)))
    whole, gaps = curriculum(CausalLM(), base), [(0, 32), (96, 130), (224, 256)]
    gapped = curriculum(
        CausalLM(), base, passed_over=[Gap(first_token=gaps[n][0], end_token=gaps[n][1]) for n in (2, 0, 1)]
    )

    def reads(phases, steps):
        places = [(phases.at(n).consumed(n), phases.at(n).consumed(n + 1)) for n in range(steps)]
        return [token for first, end in places for token in range(first, end)]

    assert [phase.sequence_length for phase in map(gapped.at, range(7))] == [4, 4, 4, 8, 8, 16, 16]
    # 130 is rounded up to a block. The step at 208 would reach into the last place, so it begins after it.
    expected = [token for token in reads(whole, 20) if not (token < 32 or 96 <= token < 144 or 208 <= token < 256)]
    found = reads(gapped, 9)
    assert found == expected[: len(found)]


@pytest.mark.parametrize(
    "places", [[(6, 7)], [(4, 9)], [(5, 6), (5, 7)], [(6, 8), (2, 4)], [(3, 4), (1, 9)], [(6, 7)] * 3]
)
def test_rows_of_a_mixture_that_are_passed_over_never_come_again_and_stages_begin_at_their_steps(places):
    """The sources b and c are first read by step 6: without care they would begin with rows that were passed over."""
    weights = {0: [1, 0, 0], 6: [1, 2, 1], 8: [0, 1, 3]}
    train = TrainConfig(batch_size=4, sequence_length=16, sequence_warmup=((3, 8),))
    sources = [mock.MagicMock(row_length=17, rows_per_block=1, __len__=lambda self: 40) for _ in range(3)]
    later = [(step, list(map(Fraction, shares))) for step, shares in weights.items() if step]
    mixture = MixtureRows(sources, weights[0], names="abc", later=later)

    def blocks_of(phases, steps):
        """The (source, block of that source) that each step reads, a list for each step."""
        rows = mixture.placed(phases.stages)
        per_row = [(phases.at(n).consumed(n), phases.at(n).consumed(n + 1)) for n in steps]
        return [[rows.locate(block) for block in range(-(-first // 16), -(-end // 16))] for first, end in per_row]

    phases, passed = curriculum(CausalLM(), train), ()
    passed_blocks = set()
    for first_step, end_step in places:
        passed_blocks.update(itertools.chain(*blocks_of(phases, range(first_step, end_step))))
        passed = (*passed, phases.gap(first_step, end_step, stages=tuple(weights)))
        phases = curriculum(CausalLM(), train, passed_over=passed)
    read = blocks_of(phases, range(14))
    everything = list(itertools.chain(*read))
    assert len(set(everything)) == len(everything) and not passed_blocks & set(everything)
    for source in range(3):
        # What is neither read nor passed over comes later.
        own = {block for of, block in passed_blocks | set(everything) if of == source}
        assert own == set(range(len(own)))
        assert epochs_at(mixture, phases, 14)["abc"[source]] == pytest.approx(
            sum(of == source for of, _ in everything) / 40
        )
    assert [{source for source, _ in step} for step in read[:9]] == [{0}] * 6 + [{0, 1, 2}] * 2 + [{1, 2}]


def test_weights_that_decide_what_was_passed_over_stay_and_a_branch_with_others_forgets_it(tmp_path):
    sources = {"a": Source(prepared="a"), "b": Source(prepared="b")}
    data = DataConfig(sources=sources, weights={"a": 1.0}, stages=(Stage(first_step=6, weights={"b": 1.0}),))
    gap = curriculum(CausalLM(), TrainConfig(batch_size=4)).gap(6, 7, stages=(0, 6))
    facts = [DataFacts(folder=name, fingerprint="", files=1, documents=1, tokens=1, valid_documents=1, valid_tokens=1,
                       source=name) for name in "ab"]  # fmt: skip
    passed = PassedOver(**vars(gap), rows=(24, 28), step=7, reason="loss=nan")
    record = Record(data=tuple(facts), batch_sizes=((0, 4), (5, 8)), passed_over=(passed,))
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    origin = Origin(run=tmp_path, step=None, config=RunConfig(name="x", data=data), record=record, newest=4)

    def goes_on(folder, *stages):
        other = dataclasses.replace(data, stages=tuple(Stage(first_step=n, weights={name: 1.0}) for n, name in stages))
        corpus = types.SimpleNamespace(weights=weights_by_step(other, {"a": 1, "b": 1}))
        return _check_mixing(origin, record, corpus, RunConfig(name="x", folder=str(folder)), lambda line: None)

    assert goes_on(tmp_path, (6, "b"), (7, "a")) == goes_on(tmp_path / "branch", (6, "b"), (9, "a")) == record
    for stages in ([(5, "b")], [(7, "b")], []):
        with pytest.raises(ValueError, match="give other weights from step 7 or later"):
            goes_on(tmp_path, *stages)
        assert goes_on(tmp_path / "branch", *stages).passed_over == ()
    with pytest.raises(ValueError, match="give other weights from step 4 or later"):
        goes_on(tmp_path / "branch", (3, "b"))
    # A run that goes on before a change of its batch size has no such change ahead.
    assert [record.at(5, batch_size=8).batch_sizes, record.at(3, batch_size=8).batch_sizes] == [
        ((0, 4), (5, 8)), ((0, 4), (3, 8))
    ]  # fmt: skip
    assert record.at(3, batch_size=4).batch_sizes == ((0, 4),)


def test_a_step_is_judged_by_the_medians_of_the_good_steps_of_its_own_objective():
    policy = SkipUpdate(window=3, loss_ratio=2.0, grad_norm_ratio=4.0)

    @jax.jit
    def step(state, loss, norm, change):
        after = dataclasses.replace(state, step=state.step + 1, params=state.params + change)
        return judged(policy, state, after, {"loss": loss, "grad_norm": norm}, component=1)

    watch = new_watch(policy, 2)
    state = TrainState(
        step=jnp.int32(5), params=jnp.ones(2), opt_state=None, ema=None, key=jax.random.key(0), watch=watch
    )
    faulty = []
    steps = [
        (1, 1, 1), (9, 1, 1), (1.5, 1, 1), (3.1, 1, 1), (2.9, 1, 1), (5.9, 1, 1), (1, 4.1, 1), (1, np.nan, 1),
        (1, 1, np.inf), (5.7, 3.9, 1),
    ]  # fmt: skip
    for numbers in steps:
        state, metrics = step(state, *map(jnp.float32, numbers))
        faulty.append(int(metrics["faulty"]))
    # The first three are not judged, and their median is 1.5. The median of 2.9, 9 and 1.5 is 2.9.
    assert faulty == [0, 0, 0, 1, 0, 1, 1, 1, 1, 0]
    assert int(state.step) == int(metrics["updates"]) == 10 and state.params.tolist() == [6, 6]
    assert state.watch.count_C.tolist() == [0, 5]
    again = from_json(json.loads(json.dumps(to_json(state.watch))), watch)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, state.watch))
    assert from_json(to_json(state.watch), new_watch(SkipUpdate(window=2), 2)).count_C.tolist() == [0, 0]
