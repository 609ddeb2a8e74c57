"""Warnings in the log come when a spike, a plateau or a divergence begins, once each."""

import numpy as np
import tiny_run

from lmjax.curves.loss_curve import analyze_loss_curve
from lmjax.train.loop import train
from lmjax.train.loss_watch import LossWatch, logged_losses
from lmjax.train.metrics import read_metrics
from lmjax.train.step import Learner


def falling(count, seed=0):
    steps = np.arange(1, count + 1)
    return (2 + 6 * steps**-0.3) * np.exp(0.02 * np.random.default_rng(seed).normal(size=count))


def warnings(losses, watch=None, *, first=1):
    watch = watch or LossWatch()
    found = []
    for step, loss in enumerate(losses, start=first):
        spike = watch.spike(step, loss)
        found += [(step, text) for text in [*([spike] if spike else []), *watch.logged(step, loss)]]
    return found


def test_healthy_losses_raise_no_warning():
    assert [warnings(falling(600, seed)) for seed in range(4)] == [[]] * 4


def test_each_spike_is_said_once_at_its_first_step():
    losses = falling(400)
    losses[[100, 101, 102, 104, 250]] *= 2.5
    found = warnings(losses)
    assert [step for step, _ in found] == [101, 251]
    assert "a spike at step 101: the loss is" in found[0][1] and "2.5 times" in found[0][1]
    assert [spike.first for spike in analyze_loss_curve(losses, steps=range(1, 401)).spikes] == [101, 251]


def test_a_plateau_and_a_divergence_are_said_when_they_begin():
    losses = np.concatenate([falling(400), np.full(300, 2.95), np.linspace(3, 6, 200)])
    losses[400:700] += 0.01 * np.random.default_rng(1).normal(size=300)
    (plateau_at, plateau), (divergence_at, divergence) = warnings(losses)
    assert 430 < plateau_at < 600 and "plateau" in plateau
    assert 700 < divergence_at < 850 and "diverges from step" in divergence


def test_a_run_that_goes_on_knows_its_curve():
    losses = falling(800)
    lines = [{"step": step, "train/loss": loss} for step, loss in enumerate(losses[:600], start=1)]
    before = logged_losses(lines, "train/loss", first_step=10)
    assert before[0] == (11, losses[10]) and len(before) == 590
    assert warnings(losses[600:], LossWatch(before), first=601) == []
    assert warnings(np.full(60, 5.0), LossWatch(before), first=601)[-1][1].startswith("the loss diverges from step 60")


def test_the_loop_warns_and_writes_the_step(tmp_path, one_device, monkeypatch, capsys):
    """A loss that is far too high once, at a step that is not to be logged."""
    step_of = Learner.take_step

    def spiking(self, state, rows):
        after, metrics = step_of(self, state, rows)
        return after, metrics | {"loss": metrics["loss"] * (1 + 39 * (state.step == 16))}

    monkeypatch.setattr(Learner, "take_step", spiking)
    tiny_run.write_corpus(tmp_path / "text")
    config = tiny_run.with_train(tiny_run.config(tmp_path), steps=20, log_every=10, eval_every=0)
    train(config, say=lambda _: None)
    assert "step 17: warning: a spike at step 17: the loss is" in capsys.readouterr().out
    logged = {line["step"]: line for line in read_metrics(tmp_path / "run")}
    assert {1, 10, 17, 20} == {step for step, line in logged.items() if "train/loss" in line}
    assert logged[17]["train/loss"] > 3 * logged[10]["train/loss"]
