import json
import math
import pathlib
import struct
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from lmjax.data.config import DataConfig
from lmjax.parallel import distributed
from lmjax.train.goodput import Goodput
from lmjax.train.metrics import (
    METRICS_FILE,
    MetricWriters,
    Throughput,
    mfu,
    peak_flops,
    read_metrics,
)
from lmjax.train.metrics_file import JsonLines
from lmjax.train.progress import summary
from lmjax.train.step_reports import StepReports


def lines(folder):
    return [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]


def write_steps(folder, steps, *, first_step=0, scale=1.0):
    with MetricWriters(folder, first_step=first_step, tensorboard=False) as writers:
        for step in steps:
            writers.write(step, {"train/loss": scale * step})


def test_a_line_is_one_flat_json_object(tmp_path):
    with MetricWriters(tmp_path / "run", tensorboard=False) as writers:
        writers.write(3, {"train/loss": jnp.float32(1.5), "grad_norm": np.float32(0.25), "tokens": 7})
    assert (tmp_path / "run" / METRICS_FILE).read_text() == (
        '{"step": 3, "train/loss": 1.5, "grad_norm": 0.25, "tokens": 7}\n'
    )


def test_a_line_is_on_disk_when_write_returns(tmp_path):
    writers = MetricWriters(tmp_path, tensorboard=False)
    writers.write(0, {"train/loss": 1.0})
    assert lines(tmp_path) == [{"step": 0, "train/loss": 1.0}]
    writers.close()


def test_numbers_that_are_not_finite_stay_valid_json_and_read_back_as_nan(tmp_path):
    with MetricWriters(tmp_path, tensorboard=False) as writers:
        writers.write(0, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})

    def refuse(text):
        raise AssertionError(text)

    text = (tmp_path / METRICS_FILE).read_text()
    assert json.loads(text, parse_constant=refuse) == {"step": 0, "a": None, "b": None, "c": None, "d": 1.0}
    (line,) = read_metrics(tmp_path / METRICS_FILE)
    assert math.isnan(line["a"]) and math.isnan(line["b"]) and line["d"] == 1.0


def test_two_writes_of_a_step_make_one_line(tmp_path):
    with MetricWriters(tmp_path, tensorboard=False) as writers:
        writers.write(1, {"train/loss": 3.0})
        writers.write(2, {"train/loss": 2.123456789})
        writers.write(2, {"valid/loss": 2.5})
        writers.write(2, {"train/loss": 2.0})  # shorter than what it replaces
        assert lines(tmp_path)[1:] == [{"step": 2, "train/loss": 2.0, "valid/loss": 2.5}]
        writers.write(3, {"train/loss": 1.0})
    assert lines(tmp_path) == [
        {"step": 1, "train/loss": 3.0},
        {"step": 2, "train/loss": 2.0, "valid/loss": 2.5},
        {"step": 3, "train/loss": 1.0},
    ]


def test_resume_drops_the_lines_it_will_write_again(tmp_path):
    write_steps(tmp_path, range(10))
    write_steps(tmp_path, range(6, 8), first_step=6, scale=-1.0)
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == [
        *((step, float(step)) for step in range(6)),
        (6, -6.0),
        (7, -7.0),
    ]
    assert [path.name for path in tmp_path.iterdir()] == [METRICS_FILE]


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_half_written_last_line_is_ignored_and_repaired(tmp_path, cut):
    write_steps(tmp_path, range(5))
    path = tmp_path / METRICS_FILE
    path.write_bytes(path.read_bytes()[:-cut])
    kept = 5 if cut == 1 else 4  # without its line end only, the last line is whole
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(kept))
    write_steps(tmp_path, range(5, 7), first_step=5)
    assert [line["step"] for line in lines(tmp_path)] == [*range(kept), 5, 6]


@pytest.mark.parametrize(
    "bad",
    [
        b'{"ste',
        b'{"step": 1, "train/loss": 1.\xff}',
        b'{"step": 1, "train/l\xffss": 1.5}',
        b"\0" * 40,
        b"[1, 2]",
        b'{"step": "1"}',
        b'{"step": true}',
        b'{"step": -1}',
        b'{"train/loss": 1.0}',
        b'{"step": 1, "train/loss": "1.0"}',
        b'{"step": 1, "train/loss": [1.0]}',
        b'{"step": 1, "train/loss": 1' + b"0" * 400 + b"}",
        b'{"step": 1' + b"0" * 5000 + b"}",
        b"[" * 100_000,
    ],
)
def test_a_damaged_line_is_passed_over_and_set_aside_by_the_next_start(tmp_path, capsys, bad):
    write_steps(tmp_path, range(4))
    path = tmp_path / METRICS_FILE
    good = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([good[0], bad, *good[2:], b""]))
    assert [line["step"] for line in read_metrics(path)] == [0, 2, 3]
    write_steps(tmp_path, range(4, 6), first_step=4)
    assert [line["step"] for line in lines(tmp_path)] == [0, 2, 3, 4, 5]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == bad + b"\n"
    assert "1 lines are no objects of numbers with a step (the first is line 2)" in capsys.readouterr().out


def test_numbers_that_json_does_not_know_are_kept_as_not_finite(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 0, "a": NaN, "b": 1e999, "c": 2}\n')
    write_steps(tmp_path, [1], first_step=1)
    assert lines(tmp_path)[0] == {"step": 0, "a": None, "b": None, "c": 2}


def test_a_file_that_is_deleted_or_replaced_is_written_again(tmp_path, capsys):
    path = tmp_path / METRICS_FILE
    with MetricWriters(tmp_path, tensorboard=False) as writers:
        writers.write(1, {"train/loss": 3.0})
        path.unlink()
        writers.write(1, {"valid/loss": 2.5})
        writers.write(2, {"train/loss": 2.0})
        (tmp_path / "other").write_text("somebody else's")
        (tmp_path / "other").replace(path)
        writers.write(3, {"train/loss": 1.0})
    assert lines(tmp_path) == [
        {"step": 1, "train/loss": 3.0, "valid/loss": 2.5},
        {"step": 2, "train/loss": 2.0},
        {"step": 3, "train/loss": 1.0},
    ]
    assert (tmp_path / "metrics.jsonl.replaced").read_text() == "somebody else's"
    said = capsys.readouterr().out
    assert "was deleted" in said and "was replaced (the other one is now metrics.jsonl.replaced)" in said


@pytest.mark.parametrize(("change", "kept"), [(b"", []), (b'{"step": 0}', [0]), (b'{"step": 0}\n', [0])])
def test_a_file_that_is_cut_or_added_to_goes_on_at_its_end(tmp_path, change, kept):
    path = tmp_path / METRICS_FILE
    with MetricWriters(tmp_path, tensorboard=False) as writers:
        writers.write(1, {"train/loss": 3.0})
        with path.open("r+b") as file:
            file.truncate(0)
            file.write(change)
        writers.write(2, {"train/loss": 2.0})
        writers.write(3, {"train/loss": 1.0})
    assert [line["step"] for line in lines(tmp_path)] == [*kept, 2, 3]


def test_a_full_disk_is_an_error(tmp_path):
    log = JsonLines(tmp_path / METRICS_FILE, first_step=0)
    log._path = pathlib.Path("/dev/full")
    with open(log._path, "r+b", buffering=0) as full:
        log._descriptor = full.fileno()
        with pytest.raises(OSError, match="No space left"):
            log.write(0, {"a": 1.0})


def test_only_the_primary_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "is_primary", lambda: False)
    with MetricWriters(tmp_path / "run") as writers:
        writers.write(0, {"train/loss": 1.0})
    assert not (tmp_path / "run").exists()


def events(folder):
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_tensorboard_has_the_numbers_and_purges_on_resume(tmp_path):
    with MetricWriters(tmp_path) as writers:
        writers.write(1, {"train/loss": 2.5})
    scalars = [(e.step, v.tag, v.simple_value) for e in events(tmp_path) for v in e.summary.value]
    assert scalars == [(1, "train/loss", 2.5)]
    assert not any(e.session_log.status == SessionLog.START for e in events(tmp_path))
    with MetricWriters(tmp_path, first_step=7) as writers:
        writers.write(7, {"train/loss": 1.5})
    assert 7 in [e.step for e in events(tmp_path) if e.session_log.status == SessionLog.START]


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_throughput_leaves_out_the_compile_and_pauses():
    clock = Clock()
    throughput = Throughput(lambda: 0.0, window=2, clock=clock)
    clock.now += 60  # the compile
    assert throughput.step(1000) is None
    clock.now += 2
    assert throughput.step(1000) == pytest.approx(500)
    with throughput.paused():
        clock.now += 30
    clock.now += 1
    assert throughput.step(1000) == pytest.approx(2000 / 3)
    clock.now += 1
    assert throughput.step(1000) == pytest.approx(2000 / 2)  # the window has moved past the first step


def test_waiting_for_rows_is_a_share_of_the_time_and_is_warned_of_once():
    now = [0.0]
    goodput = Goodput(started=0.0, clock=lambda: now[0])
    throughput = Throughput(goodput.waited, window=40, clock=lambda: now[0])
    notes, reports = [], object.__new__(StepReports)
    reports.instruments = types.SimpleNamespace(
        throughput=throughput, progress=types.SimpleNamespace(note=notes.append)
    )
    reports.plan = types.SimpleNamespace(config=types.SimpleNamespace(data=DataConfig(read_threads=3)))
    reports._warned = False
    assert throughput.waiting_share == 0.0
    for _ in range(30):
        with goodput.spending("data"):
            now[0] += 1.0
        with throughput.paused():
            now[0] += 50.0
        now[0] += 3.0
        throughput.step(10)
        reports._warn_of_waiting(throughput.waiting_share)
    assert throughput.waiting_share == pytest.approx(0.25)
    assert len(notes) == 1 and "25% of the time" in notes[0] and "--data.read-threads 6, now 3" in notes[0]
    throughput.restart()
    assert throughput.waiting_share == 0.0 and throughput.num_steps == 0
    assert summary({"loss": 1.0, "waiting_for_rows": 0.25}) == "loss 1.0000 · 25% waiting for rows"


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU7x", 1155e12),
        ("cpu", None),
    ],
)
def test_peaks(kind, peak):
    assert peak_flops(kind) == peak


def test_mfu_is_needed_over_possible_flops():
    devices = [types.SimpleNamespace(device_kind="TPU v5 lite")] * 4
    assert mfu(6e9, 65_666.667, devices) == pytest.approx(0.5, rel=1e-6)
    assert mfu(6e9, 1e4, [*devices, types.SimpleNamespace(device_kind="unheard of")]) is None
    assert mfu(6e9, 1e4, jax.devices("cpu")) is None
