"""Evaluations of a run: each by its name and period, begun once, shown, written, and looked at before a save."""

import dataclasses
import math
import types
from collections.abc import Callable

import jax
import numpy as np
import pytest
from tiny_run import config, with_train, write_corpus

from lmjax.models.parameters import Params
from lmjax.runs import open as open_run
from lmjax.train.checkpoint import CheckpointConfig, Checkpoints
from lmjax.train.config import RunConfig
from lmjax.train.config_file import read_config
from lmjax.train.evaluations.evaluation import Evaluation, Measure, Reading, Subject
from lmjax.train.evaluations.round import Evaluations, deciding_value, not_finite_losses
from lmjax.train.evaluations.samples import Samples
from lmjax.train.evaluations.text_files import TextFiles
from lmjax.train.evaluations.validation import Validation
from lmjax.train.faults import NonFiniteLoss
from lmjax.train.guard import StoppedError, Watchdog, signs_of_life
from lmjax.train.loop import train
from lmjax.train.metrics import read_metrics
from lmjax.train.samples_file import read_samples
from lmjax.train.validate import means

pytestmark = [pytest.mark.run, pytest.mark.usefixtures("one_device")]
BEGUN: list[Subject] = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norm(Evaluation):
    """The norm of the parameters, in parts; and a loss that is not finite at a step of its counting."""

    scale: float = 1.0
    broken_at: int = -1

    def begin(self, subject: Subject) -> Measure:
        BEGUN.append(subject)
        done = []

        def measure(params: Params, after_part: Callable[[], object]) -> Reading:
            total = 0.0
            for leaf in jax.tree.leaves(params):
                total += float((leaf**2).sum())
                after_part()
            done.append(total)
            loss = math.nan if len(done) - 1 == self.broken_at else 1.0
            return Reading(numbers={"norm": self.scale * math.sqrt(total), "loss": loss}, notes=("norms are norms",))

        return measure


def quick(folder, **changes) -> RunConfig:
    """A run without dropout, on one device."""
    base = with_train(config(folder, objective_name="CausalLM"), ema_decay=None, **changes)
    return dataclasses.replace(base, model=dataclasses.replace(base.model, num_layers=1, dropout=0.0))


def test_each_evaluation_is_run_by_its_own_period_and_at_the_end_and_may_change_when_a_run_goes_on(tmp_path, capsys):
    write_corpus(tmp_path / "text")
    evaluations = (
        Norm(name="norm", every_steps=2, scale=2.0),
        Validation(name="seen", prepared=str(tmp_path / "data"), split="train", batches=1),
    )
    base = quick(tmp_path, steps=5, eval_every=3)
    BEGUN.clear()
    finished = train(dataclasses.replace(base, evaluations=evaluations))
    lines = {line["step"]: line for line in read_metrics(finished.folder)}
    steps = {name: [step for step, line in lines.items() if name in line] for name in ("norm/norm", "valid/loss")}
    assert steps == {"norm/norm": [0, 2, 4, 5], "valid/loss": [0, 3, 5]}
    assert [step for step, line in lines.items() if "seen/loss" in line] == [5]
    assert finished.evaluated.keys() == {"valid", "norm", "seen"}
    assert finished.valid["loss"] == lines[5]["valid/loss"] != finished.evaluated["seen"]["loss"]
    (subject,) = BEGUN
    assert (subject.batch_size, subject.sequence_length, subject.model.vocab_size) == (8, 32, 262)
    output = capsys.readouterr().out
    assert output.count("norms are norms") == 1 and "step 2: norm/norm " in output
    with Checkpoints(finished.folder / "checkpoints", read_only=True) as checkpoints:
        template = subject.learner.abstract_state.params
        params, _ = checkpoints.restore_params(template, step=5)
    total = sum(float((np.asarray(leaf) ** 2).sum()) for leaf in jax.tree.leaves(params))
    assert lines[5]["norm/norm"] == pytest.approx(2 * math.sqrt(total), rel=1e-5)
    assert read_config(finished.folder / "config.json").evaluations == evaluations
    longer = dataclasses.replace(with_train(base, steps=6), evaluations=(Norm(name="other", every_steps=6),))
    assert train(longer).evaluated.keys() == {"valid", "other"}


def test_another_number_decides_which_step_is_the_best_and_its_checkpoint_measures_the_same(tmp_path):
    write_corpus(tmp_path / "text")
    (tmp_path / "new.txt").write_text("alpha gamma zeta")
    files = TextFiles(name="new", files=(str(tmp_path / "new.txt"),), every_steps=1, batch_size=8)
    texts = Samples(name="texts", prompts=("alpha", "be"), max_new_tokens=4, every_steps=2)
    base = dataclasses.replace(
        quick(tmp_path, steps=3, eval_every=0),
        evaluations=(files, Norm(name="norm", every_steps=1), texts),
        checkpoint=CheckpointConfig(
            every_steps=None, keep_last=1, keep_best=True, best_by="norm/norm", best_is="highest"
        ),
    )
    finished = train(base)
    norms = {line["step"]: line["norm/norm"] for line in read_metrics(finished.folder) if line["step"]}
    best = max(norms, key=norms.get)
    run = open_run(finished.folder, step="best")
    assert run.step == best
    # What was measured in training is what is measured of the checkpoint.
    (line,) = [line for line in read_metrics(finished.folder) if line["step"] == best]
    for name, value in run.evaluate(files).numbers.items():
        assert line[f"new/{name}"] == pytest.approx(value, rel=1e-5), name
    written = read_samples(tmp_path / "run")
    assert [(one.step, one.prompt) for one in written] == [(step, text) for step in (0, 2, 3) for text in texts.prompts]
    last = open_run(finished.folder, step=3).sample(list(texts.prompts), max_new_tokens=4, sampling=texts.sampling)
    assert [one.text for one in written[-2:]] == last and "texts/tokens" in line


def test_a_state_that_an_evaluation_finds_broken_is_not_saved(tmp_path):
    write_corpus(tmp_path / "text")
    base = quick(tmp_path, steps=3, eval_every=0)
    base = dataclasses.replace(
        base,
        evaluations=(Norm(name="norm", every_steps=1, broken_at=3),),
        checkpoint=CheckpointConfig(every_steps=1),
    )
    with pytest.raises(NonFiniteLoss, match=r"step 3: norm/loss=nan is not finite; last good checkpoint: 2"):
        train(base)
    assert Checkpoints(tmp_path / "run" / "checkpoints", read_only=True).steps() == [1, 2]


def test_a_number_that_is_to_decide_and_is_not_there_is_an_error_first_and_a_note_later():
    notes = []
    tools = types.SimpleNamespace(progress=types.SimpleNamespace(note=notes.append))
    evaluations = Evaluations(begun=(), instruments=tools, decides="norm/no")
    words = "checkpoint.best_by='norm/no': norm has no number 'no', so no checkpoint is the best: name one of norm/a"
    with pytest.raises(ValueError, match=words):
        evaluations._check_decides(0, "norm", {"a": 1.0})
    for _ in range(2):
        evaluations._check_decides(5, "norm", {"a": 1.0})
    evaluations._check_decides(0, "other", {})
    evaluations._check_decides(0, "norm", {"no": 1.0})
    assert len(notes) == 1 and words in notes[0]


def test_what_the_numbers_decide():
    numbers = {"valid": {"loss": 2.0, "perplexity": math.inf}, "code": {"a/loss": math.inf, "share": math.nan}}
    assert not_finite_losses(numbers) == {"code/a/loss": math.inf}
    assert deciding_value(numbers, "valid/loss") == 2.0 and deciding_value(numbers, "code/a/loss") == math.inf
    for name in ("other/loss", "valid/accuracy"):
        assert math.isnan(deciding_value(numbers, name))


def test_signs_of_life_touch_the_watchdog_and_stop_at_a_signal():
    touches, asked = [], []

    class Signal:
        def should_stop(self, step):
            asked.append(step)
            return step == 2

    watchdog = Watchdog(0)
    watchdog.touch = lambda step=None: touches.append(step)
    alive = signs_of_life(watchdog, Signal())
    alive()
    with pytest.raises(StoppedError):
        alive()
    assert asked == [0, 1, 2] and touches == [None, None]


def test_perplexity_and_bits_are_made_of_the_term_that_is_text():
    totals = {
        "generator": 6.0,
        "generator/weight": 3.0,
        "discriminator": 4.0,
        "discriminator/weight": 8.0,
        "bytes": 2.0,
    }
    found = means(totals, text_term="generator")
    assert found == {
        "generator/loss": 2.0,
        "discriminator/loss": 0.5,
        "perplexity": pytest.approx(math.exp(2.0)),
        "bits_per_byte": pytest.approx(6.0 / math.log(2) / 2),
    }
    assert means({"loss": 2.0, "loss/weight": 1.0, "bytes": 1.0}, text_term=None) == {"loss": 2.0}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Norm(name="a/b"), "evaluations: name='a/b': use letters"),
        (lambda: Norm(name="a", every_steps=-1), "evaluations: a: every_steps=-1: must not be negative"),
        (lambda: Samples(name="a", prompts=()), r"evaluations: a: prompts=\(\): give at least one"),
        (lambda: Samples(name="a", max_new_tokens=0), "evaluations: a: max_new_tokens=0: must be at least 1"),
        (lambda: Validation(name="a", batches=-1), "evaluations: a: batches=-1"),
        (lambda: Validation(name="a", split="test"), "evaluations.a.split='test': use one of valid, train"),
        (lambda: CheckpointConfig(best_by="loss"), "checkpoint.best_by='loss': name a number of an evaluation"),
        (lambda: CheckpointConfig(best_is="least"), "checkpoint.best_is='least': use one of lowest, highest"),
        (
            lambda: RunConfig(name="x", checkpoint=CheckpointConfig(keep_best=True, best_by="a/loss")),
            "best_by='a/loss': no evaluation is called 'a': name a number of valid",
        ),
        (
            lambda: RunConfig(
                name="x",
                evaluations=(Norm(name="a"),),
                checkpoint=CheckpointConfig(keep_best=True, best_by="a/loss"),
            ),
            "a is evaluated only at the end: set its every_steps",
        ),
        (lambda: RunConfig(name="x", evaluations=(Norm(name="valid"),)), "evaluations: name='valid' is taken"),
        (lambda: RunConfig(name="x", evaluations=(Norm(name="a"), Norm(name="a"))), "evaluations: name='a' is taken"),
    ],
)
def test_what_cannot_be_is_refused_by_field(build, words):
    with pytest.raises(ValueError, match=words):
        build()
