"""Two processes of one run, without a launcher: one is stopped or killed, and the other ends and names it."""

import os
import pathlib
import signal
import socket
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


def start(folder: pathlib.Path, number: int, port: int, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir), "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1", "LMJAX_COORDINATOR": f"127.0.0.1:{port}", "LMJAX_NUM_PROCESSES": "2",
        "LMJAX_PROCESS_ID": str(number),
    }  # fmt: skip
    with open(folder / f"output{number}", "w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "lmjax", "train", "recipe.py", *arguments],
            env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "number", "limit"), [(signal.SIGKILL, 1, 5), (signal.SIGKILL, 0, 5), (signal.SIGSTOP, 1, 40)]
)
def test_a_peer_that_is_killed_or_stopped_ends_the_run(tmp_path, sent, number, limit):
    write_corpus(tmp_path / "text")
    (tmp_path / "recipe.py").write_text(RECIPE.format(tests=str(ROOT / "tests")))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [start(tmp_path, one, port, "--train.watchdog-minutes", "0.3") for one in (0, 1)]

    def outputs() -> str:
        return "\n".join((tmp_path / f"output{one}").read_text() for one in (0, 1))

    try:
        metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 300
        while not (metrics.exists() and any(line["step"] >= 20 for line in read_metrics(metrics))):
            assert not any(process.poll() for process in processes) and time.monotonic() < deadline, outputs()
            time.sleep(0.1)
        other = processes[1 - number]
        os.kill(processes[number].pid, sent)
        begin = time.monotonic()
        code = other.wait(timeout=120)
        seconds = time.monotonic() - begin
        print(f"\n{sent.name} of process {number}: the other ended after {seconds:.1f} s with code {code}")
        output = (tmp_path / f"output{1 - number}").read_text()
        assert code == 1, output
        words = "is gone or stopped" if sent == signal.SIGSTOP else "has ended"
        assert f"process {number} {words}" in output
        assert seconds < limit
    finally:
        for process in processes:
            process.kill()
            process.wait()
