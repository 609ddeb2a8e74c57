"""``launch/local.py`` and ``lmjax train`` together: two processes of one device each, on one corpus."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from tiny_run import config, with_train, write_corpus

from lmjax.parallel.mesh import MeshConfig
from lmjax.tokenizers.byte import ByteTokenizer
from lmjax.train.loop import train
from lmjax.train.metrics import read_metrics
from lmjax.train.run_folder import claim

pytestmark = pytest.mark.processes

ROOT = pathlib.Path(__file__).parents[2]

RECIPE = """
import pathlib, sys, time
import jax
sys.path.insert(0, {tests!r})
import lmjax.data.prepare.prepare, lmjax.train.run_folder
from parallel.test_two_processes import two_process_config

prepare_units = lmjax.data.prepare.prepare.do_units

def leave_a_trace(*args, **options):
    pathlib.Path({folder!r}, f"prepared by {{jax.process_index()}}").touch()
    return prepare_units(*args, **options)

check_ours = lmjax.train.run_folder._check_ours

def check_late(*args):
    time.sleep(0.5)  # the other process must not touch the folder meanwhile
    check_ours(*args)

lmjax.data.prepare.prepare.do_units = leave_a_trace
lmjax.train.run_folder._check_ours = check_late

def recipe():
    return two_process_config(pathlib.Path({folder!r}))
"""


def two_process_config(folder: pathlib.Path):
    return dataclasses.replace(config(folder), mesh=MeshConfig(data=-1))


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The runs in this process use one device, as each of the two processes does."""
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: first)


FAULTS = """
import os, signal
import lmjax.train.guard

here = pathlib.Path({folder!r})
place, this_start = int(os.environ["LMJAX_PLACE"]), pathlib.Path(os.environ["LMJAX_SIGNS"]).name
(here / f"start {{this_start}}").touch()
start = len(list(here.glob("start *")))
(here / f"place {{place}} in {{start}}").touch()
if (start, place) == (2, 1):
    sys.exit("this machine is not back yet")
touch = lmjax.train.guard.Watchdog.touch

def touch_or_die(self, step=None):
    touch(self, step)
    saved = {{(1, 1, 7): 5, (3, 0, 12): 10}}.get((start, place, step))
    if saved is not None:
        while not (here / "run" / "checkpoints" / str(saved) / "SHA256SUMS").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

lmjax.train.guard.Watchdog.touch = touch_or_die
"""
"""Process 1 dies in the first start and cannot take part in the second; process 0 dies in the third."""


def launch(folder: pathlib.Path, *arguments: str, options: tuple[str, ...] = (), faults: str = "") -> subprocess.Popen:
    recipe = folder / "recipe.py"
    recipe.write_text((RECIPE + faults).format(tests=str(ROOT / "tests"), folder=str(folder)))
    command = [sys.executable, "-m", "lmjax", "train", str(recipe), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    environment |= {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch" / "local.py"), "--processes", "2", *options, "--", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
    )


def wait_for_step(process: subprocess.Popen, metrics: pathlib.Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and any(line["step"] >= step for line in read_metrics(metrics)):
            return
        time.sleep(0.02)
    process.terminate()
    pytest.fail(process.communicate(timeout=30)[0])


def losses(folder: pathlib.Path) -> np.ndarray:
    names = ("step", "train/loss", "grad_norm", "valid/loss")
    return np.array([[line.get(name, -1) for name in names] for line in read_metrics(folder)])


@pytest.mark.long
def test_one_process_then_two_then_one_train_as_one(tmp_path):
    folder = tmp_path / "two"
    write_corpus(folder / "text")
    train(with_train(two_process_config(folder), steps=2))
    # The two processes have to prepare the same data again, and one of them does.
    shutil.rmtree(folder / "data")
    process = launch(folder, "--train.steps", "100000")
    wait_for_step(process, folder / "run" / "metrics.jsonl", 6)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output

    assert {"[0] process 0 of 2", "[1] process 1 of 2"} <= {line.split(":")[0] for line in output.splitlines()}
    assert {path.name for path in folder.glob("prepared by *")} == {"prepared by 0"}
    assert output.count("run the same command again to go on") == 1
    stopped = int(losses(folder / "run")[-1, 0])
    assert f"[0] SIGTERM: saved step {stopped}" in output
    assert (folder / "run" / "checkpoints" / str(stopped)).is_dir()
    saved = json.loads((folder / "run" / "config.json").read_text())
    assert saved["mesh"]["data"] == -1 and saved["train"]["steps"] == 100_000

    # One process goes on, for two steps of which the second ends with a validation.
    steps = -(-(stopped + 2) // 8) * 8
    assert train(with_train(two_process_config(folder), steps=steps)).step == steps

    alone = tmp_path / "one"
    write_corpus(alone / "text")
    train(with_train(two_process_config(alone), steps=steps))
    both, one = losses(folder / "run"), losses(alone / "run")
    # The end of the first part was validated, too.
    assert both[2, 3] > 0 > one[2, 3]
    both[2, 3] = -1
    assert len(one) == 1 + steps and (one[::8, 3] > 0).all()
    np.testing.assert_allclose(both, one, rtol=1e-5)


@pytest.mark.long
def test_a_run_shrinks_when_a_process_is_lost_and_grows_when_it_is_back(tmp_path):
    folder, steps = tmp_path / "lost", 16
    write_corpus(folder / "text")
    process = launch(
        folder, "--train.steps", str(steps), options=("--min-processes", "1", "--restarts", "3"), faults=FAULTS
    )
    try:
        output = process.communicate(timeout=600)[0]
    finally:
        process.kill()
    assert process.returncode == 0, output
    took_part = sorted(tuple(map(int, path.name.split()[1::2])) for path in folder.glob("place *"))
    # In the third start, place 1 was left out.
    assert sorted((start, place) for place, start in took_part) == [
        (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (4, 0), (4, 1)
    ]  # fmt: skip
    assert "[1] this machine is not back yet" in output
    assert "launcher: could not start: process 1: starting 1 of 2 processes" in output
    assert f"[0] continuing after step 5 of {steps}" in output and f"continuing after step 10 of {steps}" in output

    alone = tmp_path / "one"
    write_corpus(alone / "text")
    train(with_train(two_process_config(alone), steps=steps))
    np.testing.assert_allclose(losses(folder / "run"), losses(alone / "run"), rtol=1e-5)


def test_what_is_wrong_ends_both_with_one_message(tmp_path):
    write_corpus(tmp_path / "text")
    begin = time.monotonic()
    process = launch(tmp_path, "--data.path", "absent.txt", "--data.prepared", "None")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 2, output
    assert "[0] error: data.path='absent.txt': no file there" in output
    assert "Traceback" not in output and not (tmp_path / "run").exists()
    assert time.monotonic() - begin < 50


def test_a_signal_that_only_another_process_got_is_reported(tmp_path, monkeypatch):
    write_corpus(tmp_path / "text")
    monkeypatch.setattr("lmjax.train.guard.GracefulExit.should_stop", lambda self, step: step == 2)
    finished = train(config(tmp_path))
    assert (finished.step, finished.stopped_by) == (2, "a signal to another process")


def test_a_run_killed_while_it_claimed_its_folder_can_start_again(tmp_path):
    run = config(tmp_path)
    tokenizer = ByteTokenizer({"<pad>": 256})
    tokenizer.save(run.run_folder / "tokenizer")
    (run.run_folder / ".config.json.123.partial").write_text("{")
    claim(run, tokenizer)
    assert (run.run_folder / "config.json").exists()
