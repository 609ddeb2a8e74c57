import io

import pytest
from rich.console import Console

from lmjax.parallel import distributed
from lmjax.train.progress import ProgressReport, duration, short_number, summary


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def plain_console():
    return Console(file=io.StringIO(), width=60)


def test_summary_shows_what_there_is():
    numbers = {"train/loss": 3.21449, "tokens_per_second": 51_234.0, "mfu": 0.384, "grad_norm": 1.0}
    assert summary(numbers) == "loss 3.2145 · 51.2k tok/s · MFU 38%"
    assert summary({"train/loss": 3.0, "mfu": None}) == "loss 3.0000"


@pytest.mark.parametrize(
    ("value", "text"), [(12.34, "12.3"), (999.6, "1k"), (51_234, "51.2k"), (1_304_000, "1.3M"), (2e9, "2G")]
)
def test_short_number(value, text):
    assert short_number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (59.6, "1:00"), (123, "2:03"), (3723, "1:02:03")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_plain_lines_come_no_faster_than_asked_and_the_last_one_always():
    clock, console = Clock(), plain_console()
    with ProgressReport(100, min_seconds=5, console=console, clock=clock) as report:
        for step in range(1, 8):
            report.update(step, {"train/loss": 2.0})
            clock.now += 2
        report.note("validation [loss 1.9] of a line that is longer than the console is wide")
    assert console.file.getvalue().splitlines() == [
        "step 1/100 · loss 2.0000",
        "step 4/100 · loss 2.0000 · 3:12 left",
        "step 7/100 · loss 2.0000 · 3:06 left",
        "validation [loss 1.9] of a line that is longer than the console is wide",
    ]


def test_the_last_step_is_reported_even_when_it_came_quickly():
    console = plain_console()
    with ProgressReport(3, console=console, clock=Clock()) as report:
        for step in (1, 2, 3):
            report.update(step, {"train/loss": 2.0})
    assert [line.split(" ")[1] for line in console.file.getvalue().splitlines()] == ["1/3", "3/3"]


def test_a_terminal_gets_a_bar_with_notes_above_it(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with ProgressReport(10, first_step=4, console=console) as report:
        report.note("saved step 4")
        report.update(5, {"train/loss": 2.5, "tokens_per_second": 1000.0})
    text = console.file.getvalue()
    assert "saved step 4" in text and "loss 2.5000 · 1k tok/s" in text and "5/10" in text
    assert "\x1b[?25h" in text  # the cursor is shown again


def test_ci_gets_plain_lines_even_on_a_terminal(monkeypatch):
    monkeypatch.setenv("CI", "true")
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with ProgressReport(10, console=console) as report:
        report.update(1, {"train/loss": 2.5})
    assert console.file.getvalue() == "step 1/10 · loss 2.5000\n"


def test_other_processes_are_silent(monkeypatch):
    monkeypatch.setattr(distributed, "is_primary", lambda: False)
    console = plain_console()
    with ProgressReport(10, console=console) as report:
        report.update(1, {"train/loss": 2.5})
        report.note("saved")
    assert console.file.getvalue() == ""
