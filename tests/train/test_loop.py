"""Whole runs on a tiny corpus: go on bit for bit, stop in order, refuse what is not this run's."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import tiny
from tiny_run import config, numbers, on_one_device, with_train, write_corpus

from lmjax.cli.errors import describe
from lmjax.parallel.mesh import MeshConfig
from lmjax.runs import open as open_run
from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.checkpoint.grace import Grace
from lmjax.train.config import TrainConfig
from lmjax.train.faults import NonFiniteLoss
from lmjax.train.loop import train
from lmjax.train.metrics import read_metrics
from lmjax.train.optimizers import AdamW
from lmjax.train.validate import measure

pytestmark = [pytest.mark.run, pytest.mark.usefixtures("one_device")]

RECIPE = """
import pathlib, sys
sys.path.insert(0, {tests!r})
from tiny_run import config

def recipe():
    return config(pathlib.Path({folder!r}), objective_name={objective!r})
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished")
    write_corpus(folder / "text")
    with on_one_device():
        result = train(config(folder))
    return folder, result


def test_a_run_learns_and_leaves_what_it_promises(finished):
    _, result = finished
    lines = {line["step"]: line for line in read_metrics(result.folder)}
    assert result.step == 24 and result.stopped_by is None
    assert lines[24]["train/loss"] < 0.8 * lines[1]["train/loss"]
    assert lines[24]["valid/loss"] == result.valid["loss"] < lines[8]["valid/loss"] < lines[0]["valid/loss"]
    assert [step for step, line in lines.items() if "valid/loss" in line] == [0, 8, 16, 24]
    assert {"learning_rate", "grad_norm", "tokens_per_second", "goodput"} <= lines[24].keys()
    assert lines[24]["valid/bits_per_byte"] == pytest.approx(result.valid["loss"] / np.log(2), rel=1e-5)
    kept = sorted(int(p.name) for p in (result.folder / "checkpoints").iterdir() if p.name.isdecimal())
    assert kept == [15, 20, 24]
    assert json.loads((result.folder / "config.json").read_text())["train"]["steps"] == 24


def test_stopping_twice_and_going_on_repeats_every_number(finished, tmp_path, monkeypatch):
    """Three processes' worth of training, two epochs, the second stop between two checkpoints."""
    _, result = finished
    write_corpus(tmp_path / "text")
    monkeypatch.setattr("lmjax.train.guard.GracefulExit.should_stop", lambda self, step: step in (7, 18))
    base = config(tmp_path)
    stops = [train(base).step for _ in range(3)]
    assert stops == [7, 18, 24]
    assert numbers(tmp_path / "run") == numbers(result.folder)


def run_in_subprocess(folder: pathlib.Path, **popen) -> subprocess.Popen:
    recipe = folder / "recipe.py"
    tests = str(pathlib.Path(__file__).parents[1])
    recipe.write_text(RECIPE.format(tests=tests, folder=str(folder), objective="MaskedLM"))
    command = [sys.executable, "-m", "lmjax", "train", str(recipe), *popen.pop("arguments", [])]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, **popen
    )


def wait_for_step(process: subprocess.Popen, folder: pathlib.Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        path = folder / "run" / "metrics.jsonl"
        if path.exists() and any(line["step"] >= step for line in read_metrics(path)):
            return
        if process.poll() is not None:
            pytest.fail(process.stdout.read())
        time.sleep(0.01)
    pytest.fail("no progress")


@pytest.mark.processes
def test_kill_9_at_any_moment_and_the_same_command_repeats_every_number(finished, tmp_path):
    _, result = finished
    write_corpus(tmp_path / "text")
    for step in (3, 12):
        process = run_in_subprocess(tmp_path)
        wait_for_step(process, tmp_path, step)
        process.kill()
        process.wait()
    last = run_in_subprocess(tmp_path)
    output = last.communicate(timeout=300)[0]
    assert last.returncode == 0, output
    assert numbers(tmp_path / "run") == numbers(result.folder)


@pytest.mark.processes
def test_sigterm_saves_and_exits_with_0_saying_how_to_go_on(tmp_path):
    write_corpus(tmp_path / "text")
    process = run_in_subprocess(tmp_path, arguments=["--train.steps", "100000"])
    wait_for_step(process, tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert "run the same command again to go on" in output
    saved = max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdecimal())
    assert saved == read_metrics(tmp_path / "run")[-1]["step"]


@pytest.mark.parametrize(("on_signal", "grace_seconds"), [(True, None), (True, 1e-6), (False, None)])
def test_a_signal_during_a_validation_ends_it_and_saves_and_batches_are_signs_of_life(
    tmp_path, monkeypatch, capfd, on_signal, grace_seconds
):
    write_corpus(tmp_path / "text")
    measured, saved = threading.Event(), Grace.saved
    monkeypatch.setattr(Grace, "saved", lambda self, seconds: (saved(self, seconds), measured.set()))
    touches = []
    monkeypatch.setattr("lmjax.train.guard.Watchdog.touch", lambda self, step=None: touches.append(step))

    def signalled(learner, params, rows, *others, **options):
        if None in touches:  # the second validation; the first is before any step
            assert measured.wait(60)
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(learner, params, rows, *others, **options)

    monkeypatch.setattr("lmjax.train.evaluations.validation.measure", signalled)
    checkpoint = CheckpointConfig(every_steps=5, on_signal=on_signal, grace_seconds=grace_seconds)
    result = train(config(tmp_path, checkpoint=checkpoint))
    assert (result.step, result.stopped_by, result.valid) == (8, "SIGTERM", {})
    saves = on_signal and grace_seconds is None
    assert result.saved_step == (8 if saves else 5)
    assert touches[0] is None and (tmp_path / "run" / "checkpoints" / "8").is_dir() == saves
    out, err = capfd.readouterr()
    assert ("SIGTERM: saving after this step, then stopping (the last save took " in err) == on_signal
    assert ("step 8 is not saved: the last save took" in out) == (grace_seconds is not None)
    assert ("warning: a save takes" in out) == (grace_seconds is not None)
    assert [line["step"] for line in read_metrics(tmp_path / "run") if "valid/loss" in line] == [0]


def test_another_run_is_not_overwritten(finished):
    folder, result = finished
    before = sorted(p.name for p in (result.folder / "checkpoints").iterdir())
    other = config(folder)
    other = dataclasses.replace(other, model=dataclasses.replace(other.model, width=32))
    with pytest.raises(ValueError, match="holds another run: its model.width is 16, here it is 32"):
        train(other)
    assert sorted(p.name for p in (result.folder / "checkpoints").iterdir()) == before


def test_a_folder_that_is_no_run_is_not_used(tmp_path):
    write_corpus(tmp_path / "text")
    with pytest.raises(ValueError, match="exists and is not a run folder"):
        train(dataclasses.replace(config(tmp_path), folder=str(tmp_path / "text")))


def test_a_finished_run_can_be_made_longer(tmp_path):
    write_corpus(tmp_path / "text")
    short = with_train(config(tmp_path), steps=4)
    train(short)
    longer = train(with_train(short, steps=6))
    assert longer.step == 6
    assert [line["step"] for line in read_metrics(longer.folder)] == [0, 1, 2, 3, 4, 5, 6]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_checkpoint(tmp_path):
    write_corpus(tmp_path / "text")
    broken = dataclasses.replace(
        config(tmp_path, objective_name="CausalLM"),
        optimizer=AdamW(learning_rate=1e30, clip_norm=None),
        checkpoint=CheckpointConfig(every_steps=1),
    )
    with pytest.raises(NonFiniteLoss, match=r"step \d+: .*not finite; last good checkpoint: 1") as raised:
        train(broken)
    assert describe(raised.value)[1] == 1
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()


def test_opened_run_has_the_average_it_was_validated_with(finished):
    from lmjax.train.open_corpus import open_corpus
    from lmjax.train.validate import fixed_batches, validate

    _, result = finished
    opened = open_run(result.folder)
    corpus = open_corpus(opened.config.data, opened.config.tokenizer)
    rows = corpus.rows("valid", row_length=32, seed=None)
    again = validate(opened.learner, opened.params, fixed_batches(opened.learner, rows, batch_size=8, num_batches=2))
    assert opened.step == 24
    assert again["loss"] == pytest.approx(result.valid["loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": TrainConfig(batch_size=6)}, "train.batch_size=6 cannot be split over 4 devices"),
        ({"mesh": MeshConfig(fsdp=3)}, "fsdp=3"),
        ({"mesh": MeshConfig(data=1, tensor=4)}, "model.num_heads=2 cannot be split over mesh.tensor=4"),
    ],
)
def test_what_does_not_fit_the_devices_is_refused_before_compiling(change, words):
    from lmjax.train.setup import build_learner, resolve

    base = dataclasses.replace(config(pathlib.Path("unused")), **{"mesh": MeshConfig(), **change})
    with pytest.raises(ValueError, match=words):
        build_learner(resolve(base, tiny.VOCABULARY), tiny.VOCABULARY, devices=jax.local_devices()[:4])
