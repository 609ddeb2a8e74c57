"""A run of many steps holds no more memory, files or threads at its end than in its middle."""

import dataclasses
import os
import pathlib
import threading

import jax
import pytest
from tiny_run import config, on_one_device, with_train, write_corpus

from lmjax.train.checkpoint import CheckpointConfig
from lmjax.train.evaluations.evaluation import Evaluation, Measure, Reading, Subject
from lmjax.train.loop import train
from lmjax.train.metrics import read_metrics

pytestmark = pytest.mark.chaos

GROWTH = 1.03
"""How much larger the memory may be at the end; saves leave a little behind in orbax and in the allocator."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held(Evaluation):
    """What the process holds: resident memory in MiB, open files, threads, live arrays."""

    def begin(self, subject: Subject) -> Measure:
        def measure(params, after_part):
            lines = pathlib.Path("/proc/self/status").read_text().splitlines()
            resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
            return Reading(
                numbers={
                    "memory": resident / 1024,
                    "files": float(len(os.listdir("/proc/self/fd"))),
                    "threads": float(threading.active_count()),
                    "arrays": float(len(jax.live_arrays())),
                }
            )

        return measure


def test_memory_files_and_threads_stay_flat(tmp_path, request):
    steps = request.config.getoption("--steps")
    write_corpus(tmp_path / "text")
    base = with_train(config(tmp_path), steps=steps, eval_every=steps // 20, log_every=10)
    base = dataclasses.replace(
        base,
        evaluations=(Held(name="held", every_steps=steps // 20),),
        checkpoint=CheckpointConfig(every_steps=steps // 20, keep_last=2),
    )
    with on_one_device():
        train(base)
    lines = [line for line in read_metrics(tmp_path / "run") if "held/memory" in line]
    for name in ("memory", "files", "threads", "arrays"):
        print(f"\n{name}: " + ", ".join(f"{line[f'held/{name}']:.0f} at {line['step']:.0f}" for line in lines[::4]))
    middle, last = lines[len(lines) // 2], lines[-1]
    assert last["held/memory"] < GROWTH * middle["held/memory"]
    for name in ("files", "threads", "arrays"):
        assert last[f"held/{name}"] <= middle[f"held/{name}"] + 2
