"""What a second start of a run may change, what it is told, and what it is refused."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
import tiny
from tiny_run import config, numbers, on_one_device, with_train, write_corpus

from lmjax.data.config import DataConfig
from lmjax.objectives import CausalLM, MaskedLM, Mixture
from lmjax.objectives.mixture import Part
from lmjax.runs import open as open_run
from lmjax.schedules import ScheduleConfig
from lmjax.train import loop as loop_module
from lmjax.train.checkpoint import CheckpointConfig, CheckpointError, Checkpoints, NonFiniteState
from lmjax.train.components import components_of, turn_of
from lmjax.train.config import TrainConfig
from lmjax.train.curriculum import curriculum
from lmjax.train.evaluations.evaluation import Reading
from lmjax.train.faults import NonFiniteLoss
from lmjax.train.loop import train
from lmjax.train.metrics import read_metrics
from lmjax.train.optimizers import AdamW
from lmjax.train.record import DataFacts, Record, data_changes, read_record
from lmjax.train.resume import check_changes, find_origin
from lmjax.train.run_folder import split_checkpoint
from lmjax.train.scored import STEPS_IN_A_ROW, NothingScored, ScoredWatch, look_ahead

pytestmark = [pytest.mark.run, pytest.mark.usefixtures("one_device")]


def short(folder, *, steps=4, **changes):
    return with_train(config(folder, objective_name="CausalLM"), steps=steps, eval_every=0, **changes)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of four steps, saved at each; copied by the tests that go on with it."""
    folder = tmp_path_factory.mktemp("stopped")
    write_corpus(folder / "text")
    base = dataclasses.replace(short(folder), checkpoint=CheckpointConfig(every_steps=2))
    with on_one_device():
        train(base)
    return folder, base


@pytest.fixture
def copied(stopped, tmp_path):
    """Its own copy of the run, and the configuration that goes on with it."""
    folder, base = stopped
    shutil.copytree(folder / "run", tmp_path / "run")
    return dataclasses.replace(base, folder=str(tmp_path / "run"))


def origin_and_record(base):
    from lmjax.train.open_corpus import open_corpus

    corpus = open_corpus(base.data, base.tokenizer)
    base = dataclasses.replace(base, model=base.model.with_vocabulary(corpus.tokenizer.vocabulary.size))
    said = []
    origin = find_origin(base, corpus.tokenizer)
    return origin, check_changes(base, origin, corpus, said.append), said


def other_text(base, tmp_path):
    """The same recipe after a file was added to its text and the data were prepared anew."""
    write_corpus(tmp_path / "text")
    (tmp_path / "text" / "99.txt").write_text("omega omega omega " * 9)
    data = dataclasses.replace(base.data, path=str(tmp_path / "text"), prepared=str(tmp_path / "data"))
    return dataclasses.replace(base, data=data)


def test_other_text_is_refused_until_it_is_said_to_be_meant(copied, tmp_path):
    other = other_text(copied, tmp_path)
    with pytest.raises(ValueError, match=r"other data \(.*12 files then and 13 now; .* tokens then and .* now\)"):
        origin_and_record(other)
    before = origin_and_record(copied)[1]
    other = with_train(other, change_on_resume=("data",))
    _, record, said = origin_and_record(other)
    assert record.data[0].files == 13 and before.data[0].files == 12
    assert len(said) == 1 and "going on with other data" in said[0]


def test_a_run_without_a_record_takes_the_data_it_finds_and_says_so(copied, tmp_path):
    (tmp_path / "run" / "record.json").unlink()
    _, record, said = origin_and_record(other_text(copied, tmp_path))
    assert record.data[0].files == 13 and "made by an earlier version" in said[0]


def facts(number, **changes):
    fields = {"folder": "a", "fingerprint": str(number), "files": 1, "documents": 2, "tokens": 3}
    return DataFacts(**{**fields, "valid_documents": 4, "valid_tokens": 5, **changes})


def test_every_folder_of_a_mixture_is_compared():
    before = (facts(1), facts(2))
    assert data_changes(before, (facts(1, folder="moved"), facts(2))) == []
    assert data_changes(before, (facts(1), facts(3, folder="b", tokens=9))) == ["b: 3 training tokens then and 9 now"]
    assert data_changes(before, (facts(2), facts(1))) == ["a: as many tokens, but others, or in another order"] * 2
    assert data_changes(before, (facts(1),)) == ["2 folders then, 1 now"]


@pytest.mark.parametrize("content", ["", "[]", '{"data": 3}', '{"data": [], "batch_sizes": []}', "[" * 10**5])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(ValueError, match=r"record\.json is damaged .*restore it, or delete it"):
        read_record(tmp_path)


def test_lost_checkpoints_are_not_begun_anew_in_silence(copied, tmp_path):
    run = tmp_path / "run"
    assert read_record(run).last_saved == 4
    lines = (run / "metrics.jsonl").read_text()
    steps = run / "checkpoints"
    for lose in (lambda: [step.rename(f"{step}.corrupt") for step in steps.iterdir()], lambda: shutil.rmtree(steps)):
        lose()
        with pytest.raises(
            CheckpointError, match=r"only damaged ones set aside|was saved at step 4 and .* has no check"
        ):
            train(copied)
        assert (run / "metrics.jsonl").read_text() == lines
    (run / "record.json").write_text(json.dumps(json.loads((run / "record.json").read_text()) | {"last_saved": None}))
    said = []
    train(with_train(copied, steps=1), say=said.append)
    assert any("had saved nothing: beginning anew" in line for line in said)
    assert (run / "metrics.1.jsonl").read_text() == lines
    assert [line["step"] for line in read_metrics(run)] == [1]


def test_changed_steps_say_what_becomes_of_the_learning_rate(copied):
    longer = dataclasses.replace(with_train(copied, steps=5), schedule=ScheduleConfig(kind="linear"))
    with pytest.raises(ValueError, match="schedule.kind.*--train.change-on-resume schedule.kind"):
        train(longer)
    said = []
    train(with_train(longer, change_on_resume=("schedule",)), say=said.append)
    assert "continuing after step 4 of 5" in said
    assert "learning rate: 0.01 at this step until now, 0.002 from here on" in said


def test_what_cannot_change_is_not_taken_by_name():
    with pytest.raises(ValueError, match="'train.seed' cannot change when a run goes on; these can: data, schedule"):
        TrainConfig(change_on_resume=("train.seed",))


def test_a_changed_batch_size_uses_every_row_once(copied):
    """Rows of 16 + 16 + 16 + 16 steps, then of 4: the phases lie end to end."""
    train_config = TrainConfig(batch_size=4, sequence_length=8, sequence_warmup=((3, 4),))
    record = Record(data=(), batch_sizes=((0, 8),)).at(5, batch_size=4).at(9, batch_size=16)
    assert record.batch_sizes == ((0, 8), (5, 4), (9, 16))
    assert record.at(7, batch_size=2).batch_sizes == ((0, 8), (5, 4), (7, 2)), "a change that was undone is forgotten"
    phases = curriculum(MaskedLM(), train_config, batch_sizes=record.batch_sizes).phases
    assert [(p.first_step, p.end_step, p.sequence_length, p.batch_size) for p in phases] == [
        (0, 3, 4, 16), (3, 5, 8, 8), (5, 9, 8, 4), (9, None, 8, 16),
    ]  # fmt: skip
    used = 0
    for phase in phases:
        assert phase.consumed(phase.first_step) == used
        used = phase.consumed(phase.end_step or 12)
    assert used == 8 * (5 * 8 + 4 * 4 + 3 * 16)


def test_going_on_with_another_batch_size_and_learning_rate(copied, tmp_path):
    changed = dataclasses.replace(copied, optimizer=AdamW(learning_rate=1e-3))
    changed = with_train(changed, steps=6, batch_size=4)
    with pytest.raises(ValueError, match=r"optimizer.learning_rate is 0.01, here it is 0.001 \(and 1 more"):
        train(changed)
    said = []
    meant = with_train(changed, change_on_resume=("optimizer.learning_rate", "train.batch_size"))
    train(meant, say=said.append)
    assert "learning rate: 0.01 at this step until now, 0.001 from here on" in said
    assert "batch size: 8 rows until now, 4 from here on" in said
    assert read_record(tmp_path / "run").batch_sizes == ((0, 8), (4, 4))
    # What was changed needs no saying again.
    train(with_train(changed, steps=7))
    assert read_record(tmp_path / "run").batch_sizes == ((0, 8), (4, 4))


def test_a_start_that_saves_nothing_leaves_the_description_of_the_checkpoint(copied, tmp_path, monkeypatch):
    described = {name: (tmp_path / "run" / name).read_bytes() for name in ("config.json", "record.json")}

    def killed(*_, **__):
        raise KeyboardInterrupt

    changed = dataclasses.replace(copied, optimizer=AdamW(learning_rate=1e-3))
    changed = with_train(
        changed, steps=6, batch_size=4, change_on_resume=("optimizer.learning_rate", "train.batch_size")
    )
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop_module, "open_instruments", killed)
        train(changed)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in described} == described
    train(with_train(changed, steps=5))
    now = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (now["train"]["steps"], now["train"]["batch_size"], now["optimizer"]["learning_rate"]) == (5, 4, 1e-3)


def test_a_batch_that_carries_a_memory_keeps_its_size(copied):
    data = dataclasses.replace(copied.data, packing="streams")
    copied = with_train(dataclasses.replace(copied, data=data), batch_size=4, change_on_resume=("train.batch_size",))
    with pytest.raises(ValueError, match="carries a memory for each of its 8 rows"):
        origin_and_record(copied)


def test_a_branch_goes_on_with_all_of_the_state(stopped, tmp_path):
    """Off step 2 with the same schedule it repeats what the run did; its own folder holds it from then on."""
    _, base = stopped
    run = base.run_folder
    branch = dataclasses.replace(base, folder=str(tmp_path / "branch"))
    branch = with_train(branch, branch_from=f"{run}/checkpoints/2")
    said = []
    train(branch, say=said.append)
    assert f"continuing after step 2 of 4, branching off {run}" in said
    assert numbers(tmp_path / "branch") == [line for line in numbers(run) if line[0] > 2]
    cooled = dataclasses.replace(branch, folder=str(tmp_path / "cooled"))
    cooled = dataclasses.replace(cooled, schedule=ScheduleConfig(kind="wsd", decay_fraction=0.5))
    train(cooled)
    assert read_metrics(tmp_path / "cooled")[-1]["learning_rate"] == pytest.approx(0.005)
    assert train(cooled).step == 4, "the same command goes on in the branch's folder"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"branch_from": "{run}/checkpoints/3"}, r"no such checkpoint; of that run there are steps \[2, 4\]"),
        ({"branch_from": "nowhere"}, "train.branch_from=nowhere: nowhere is not a run folder"),
        ({"branch_from": "{run}", "seed": 1}, "train.seed is 0, here it is 1"),
        ({"branch_from": "{run}/checkpoints/best"}, "has no best checkpoint"),
    ],
)
def test_what_cannot_be_branched_off_is_refused(stopped, tmp_path, change, words):
    _, base = stopped
    change = dict(change)
    change["branch_from"] = change["branch_from"].format(run=base.run_folder)
    branch = with_train(dataclasses.replace(base, folder=str(tmp_path / "branch")), **change)
    with pytest.raises(ValueError, match=words):
        origin_and_record(branch)


def test_a_run_begins_with_weights_or_with_a_state():
    with pytest.raises(ValueError, match="set one of them to None"):
        TrainConfig(init_from="a", branch_from="b")


def test_the_best_checkpoint_is_kept_and_opened(tmp_path):
    write_corpus(tmp_path / "text")
    base = with_train(short(tmp_path, steps=3), eval_every=1)
    checkpoint = CheckpointConfig(every_steps=None, keep_last=1, keep_best=True)
    train(dataclasses.replace(base, checkpoint=checkpoint))
    losses = {line["step"]: line["valid/loss"] for line in read_metrics(tmp_path / "run") if line["step"]}
    best = min(losses, key=losses.get)
    assert Checkpoints(tmp_path / "run" / "checkpoints", read_only=True).best_step() == best
    assert open_run(tmp_path / "run", step="best").step == best
    assert split_checkpoint("a/checkpoints/best")[1] == "best" and split_checkpoint("a/7")[1] is None


def test_a_last_step_that_ruins_the_state_is_not_saved(tmp_path):
    """The loss is looked at before the update: the state itself has to be."""
    write_corpus(tmp_path / "text")
    ruined = dataclasses.replace(short(tmp_path, steps=1), optimizer=AdamW(learning_rate=1e39))
    ruined = dataclasses.replace(ruined, data=dataclasses.replace(ruined.data, valid_fraction=0.0))
    with pytest.raises(NonFiniteState, match="step 1: after its update .*params.* is not finite.* none yet"):
        train(ruined)
    assert Checkpoints(tmp_path / "run" / "checkpoints", read_only=True).steps() == []


def test_a_validation_that_is_not_finite_is_said_and_its_state_not_saved(tmp_path, monkeypatch, capsys):
    write_corpus(tmp_path / "text")
    losses = iter([3.0, math.nan, 2.0, math.nan])

    def measured(*_, **__):
        return Reading(numbers={"loss": next(losses)})

    monkeypatch.setattr("lmjax.train.evaluations.validation.measure", measured)
    base = with_train(short(tmp_path, steps=3), eval_every=1)
    base = dataclasses.replace(base, checkpoint=CheckpointConfig(every_steps=1, keep_best=True))
    with pytest.raises(NonFiniteLoss, match=r"step 3: valid/loss=nan is not finite; last good checkpoint: 2"):
        train(base)
    assert "step 1: valid/loss is not finite: this state will not be saved" in capsys.readouterr().out
    there = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)
    assert (there.steps(), there.best_step()) == ([2], 2)


def unweighted(rows):
    return dataclasses.replace(rows, weights_BT=np.zeros(rows.tokens_BT.shape, np.float32))


MIXED = (Part(name="causal", objective=CausalLM()), Part(name="masked", objective=MaskedLM()))
OBJECTIVES = {"causal": CausalLM(), "masked": MaskedLM(), "by row": Mixture(parts=MIXED, by="row")}
OBJECTIVES |= {"by step": Mixture(parts=MIXED, by="step")}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_looking_ahead_finds_what_is_scored_later_or_refuses(name):
    objective = OBJECTIVES[name]
    learner = tiny.learner(objective)
    component = components_of(objective)[-1]
    rows = tiny.random_rows(objective.row_length(8), packed=False)
    key = jax.random.key(0)
    look_ahead(learner, component, [unweighted(rows), rows], key, step=1)
    with pytest.raises(NothingScored, match=r"step 1 and the 31 after it: nothing is scored by .*LM.*lmjax preview"):
        look_ahead(learner, component, [unweighted(rows)] * STEPS_IN_A_ROW + [rows], key, step=1)


def test_steps_in_a_row_are_counted_for_each_objective():
    objective = OBJECTIVES["by row"]
    watch, whole = ScoredWatch(objective), turn_of(objective, 0).component
    some, none = {"causal/scored_tokens": 3, "masked/scored_tokens": 1}, {"causal/scored_tokens": 3}
    empty = none | {"masked/scored_tokens": 0}
    assert watch.begun_without(whole, empty, step=1) == [components_of(objective)[1]]
    for step in range(2, STEPS_IN_A_ROW):
        assert watch.begun_without(whole, empty, step=step) == []
    assert watch.begun_without(whole, some, step=STEPS_IN_A_ROW) == []
    for step in range(STEPS_IN_A_ROW - 1):
        watch.begun_without(whole, empty, step=step)
    with pytest.raises(NothingScored, match=r"MaskedLM \('masked' of the mixture\)"):
        watch.begun_without(whole, empty, step=99)
    causal, masked = components_of(OBJECTIVES["by step"])
    by_step = ScoredWatch(OBJECTIVES["by step"])
    assert by_step.begun_without(masked, {"scored_tokens": 0, "loss": 0.0}, step=1) == [masked]
    assert by_step.begun_without(causal, {"scored_tokens": 5}, step=2) == []
    alone, own = ScoredWatch(CausalLM()), turn_of(CausalLM(), 0).component
    assert alone.begun_without(own, {"a/scored_tokens": 0, "b/scored_tokens": 0}, step=1) == [own]
    assert alone.begun_without(own, {"loss": 1.0}, step=2) == []


def test_a_run_whose_text_has_no_weight_stops_at_its_first_step(tmp_path):
    lines = [json.dumps({"text": f"word {i} " * 9, "w": 0}) for i in range(40)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    data = DataConfig(path=str(tmp_path / "text.jsonl"), prepared=str(tmp_path / "data"), weight_field="w")
    base = dataclasses.replace(short(tmp_path), data=data)
    with pytest.raises(NothingScored, match="evaluation: nothing is scored by CausalLM"):
        train(with_train(base, eval_every=2))
    with pytest.raises(NothingScored, match="step 1 and the 31 after it: nothing is scored by CausalLM"):
        train(base)
    assert [line for line in read_metrics(tmp_path / "run") if line["step"]] == []
