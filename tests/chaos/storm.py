"""Starts tiny runs, disturbs them, and compares them with one that nothing disturbed."""

import contextlib
import json
import os
import pathlib
import random
import select
import shutil
import signal
import subprocess
import sys
import time

import jax
from tiny_run import write_corpus

from lmjax.train.metrics import read_metrics

TESTS = pathlib.Path(__file__).parents[1]
RECIPE = """
import dataclasses, pathlib, sys
sys.path.insert(0, {tests!r})
from tiny_run import config, with_train
from lmjax.train.checkpoint import CheckpointConfig

def recipe():
    base = with_train(config(pathlib.Path()), steps=24, eval_every=8)
    return dataclasses.replace(base, checkpoint=CheckpointConfig(every_steps=3))
"""
NUMBERS = ("step", "train/loss", "grad_norm", "valid/loss")
PATIENCE = 300.0


class Storm:
    """A place for runs; each has a folder with a recipe, a corpus, prepared data and the run itself."""

    def __init__(self, folder: pathlib.Path, *, seed: int):
        self.folder = folder
        self.random = random.Random(seed)
        self._recipe = folder / "recipe.py"
        self._recipe.write_text(RECIPE.format(tests=str(TESTS)))
        self._places = 0

    def __enter__(self) -> "Storm":
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }
        self._zygote = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).with_name("zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            bufsize=1,
        )
        self.calm = self.new_place()
        begin = time.monotonic()
        assert self.finish(self.calm) == 0, self.output(self.calm)
        self.seconds = time.monotonic() - begin
        self.numbers = self.numbers_of(self.calm)
        return self

    def __exit__(self, *_) -> None:
        assert self._zygote.stdin is not None
        self._zygote.kill()
        self._zygote.wait()

    def new_place(self) -> pathlib.Path:
        """Makes a folder for a run that has not begun."""
        self._places += 1
        place = self.folder / f"place{self._places}"
        write_corpus(place / "text")
        return place

    def copy_of(self, place: pathlib.Path) -> pathlib.Path:
        """Copies a run with its data."""
        self._places += 1
        return pathlib.Path(shutil.copytree(place, self.folder / f"place{self._places}"))

    def begin(self, place: pathlib.Path, *arguments: str) -> int:
        """Starts to train and returns the id of the process."""
        request = {
            "arguments": ["train", str(self._recipe), *arguments],
            "folder": str(place),
            "output": str(place / "output.txt"),
        }
        assert self._zygote.stdin is not None and self._zygote.stdout is not None
        self._zygote.stdin.write(json.dumps(request) + "\n")
        return int(self._zygote.stdout.readline())

    def end(self, process: int) -> int:
        """Waits for the process and returns its exit code; a signal is a negative number."""
        assert self._zygote.stdout is not None
        ready, _, _ = select.select([self._zygote.stdout], [], [], PATIENCE)
        if not ready:
            os.kill(process, signal.SIGKILL)
            raise AssertionError(f"the process has not ended in {PATIENCE:.0f} s")
        return int(self._zygote.stdout.readline())

    def finish(self, place: pathlib.Path, *arguments: str) -> int:
        """Trains until the command ends, and returns its exit code."""
        return self.end(self.begin(place, *arguments))

    def send(self, process: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)

    def wait_for_moment(self, place: pathlib.Path, process: int) -> str:
        """Waits until a random moment of a run, or until the process ends, and returns what kind of moment it is."""
        kind = self.random.choice(("any time", "a step", "a save", "checksums", "preparation"))
        checkpoints, metrics = place / "run" / "checkpoints", place / "run" / "metrics.jsonl"
        target = self.random.randint(1, 23)
        come = {
            "any time": lambda: True,
            "a step": lambda: metrics.exists() and any(line["step"] >= target for line in read_metrics(metrics)),
            "a save": lambda: any(checkpoints.glob("*.orbax-checkpoint-tmp*")),
            "checksums": lambda: any(
                path.name.isdecimal() and not (path / "SHA256SUMS").exists() for path in checkpoints.glob("*")
            ),
            "preparation": lambda: (place / "data").exists(),
        }[kind]
        deadline = time.monotonic() + 2 * self.seconds
        while time.monotonic() < deadline and self._alive(process) and not come():
            time.sleep(0.001)
        delay = self.random.uniform(0, self.seconds) if kind == "any time" else self.random.uniform(0, 0.1)
        time.sleep(delay)
        return kind

    def _alive(self, process: int) -> bool:
        try:
            return "State:\tZ" not in pathlib.Path(f"/proc/{process}/status").read_text()
        except OSError:
            return False

    def finished_save(self, place: pathlib.Path) -> int:
        """Returns the newest step that is saved with its checksums; 0 if there is none."""
        steps = (place / "run" / "checkpoints").glob("*/SHA256SUMS")
        return max((int(path.parent.name) for path in steps if path.parent.name.isdecimal()), default=0)

    def output(self, place: pathlib.Path) -> str:
        """Returns what the runs in a folder have printed."""
        return (place / "output.txt").read_text(errors="replace")

    @staticmethod
    def numbers_of(place: pathlib.Path) -> list[tuple]:
        """Returns what has to repeat to the last bit."""
        return [tuple(line.get(name) for name in NUMBERS) for line in read_metrics(place / "run")]
