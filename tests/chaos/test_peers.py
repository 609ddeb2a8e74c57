"""Two processes of one run: one is stopped or killed, and the other ends and names it."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest
from tiny_run import write_corpus

from lmjax.train.metrics import read_metrics

pytestmark = pytest.mark.chaos

ROOT = pathlib.Path(__file__).parents[2]
RECIPE = """
import dataclasses, pathlib, sys
sys.path.insert(0, {tests!r})
from tiny_run import config, with_train
from lmjax.parallel.mesh import MeshConfig
from lmjax.train.checkpoint import CheckpointConfig

def recipe():
    # A save or a validation may take an hour before the watchdog ends it.
    base = dataclasses.replace(
        config(pathlib.Path()), mesh=MeshConfig(data=-1), checkpoint=CheckpointConfig(every_steps=None)
    )
    return with_train(base, steps=100000, eval_every=0)
"""


def children_of(process: int) -> list[int]:
    text = pathlib.Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(word) for word in text.split()]


def number_of(process: int) -> str | None:
    """The number of a process of the run, None for another program."""
    variables = pathlib.Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    found = [value for value in variables if value.startswith(b"LMJAX_PROCESS_ID=")]
    return found[0].decode().partition("=")[2] if found else None


@pytest.mark.parametrize("sent", [signal.SIGSTOP, signal.SIGKILL])
def test_a_peer_that_is_stopped_or_killed_ends_the_run(tmp_path, sent):
    write_corpus(tmp_path / "text")
    (tmp_path / "recipe.py").write_text(RECIPE.format(tests=str(ROOT / "tests")))
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    command = [sys.executable, "-m", "lmjax", "train", "recipe.py", "--train.watchdog-minutes", "0.3"]
    with subprocess.Popen(
        [sys.executable, str(ROOT / "launch" / "local.py"), "--processes", "2", "--", *command],
        env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as launcher:  # fmt: skip
        metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 300
        while not (metrics.exists() and any(line["step"] >= 20 for line in read_metrics(metrics))):
            assert launcher.poll() is None and time.monotonic() < deadline, launcher.communicate()[0]
            time.sleep(0.1)
        (second,) = (child for child in children_of(launcher.pid) if number_of(child) == "1")
        os.kill(second, sent)
        begin = time.monotonic()
        output = launcher.communicate(timeout=120)[0]
        print(f"\n{sent.name}: the run ended after {time.monotonic() - begin:.1f} s")
        assert launcher.returncode not in (0, 2), output
    if sent == signal.SIGSTOP:
        assert "process 0: no sign of life for 0.3 minutes" in output
        assert "process 1 is gone or stopped" in output
    else:
        assert "process 1 failed with -9: ending the others" in output
