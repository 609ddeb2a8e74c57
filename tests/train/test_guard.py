import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import pytest

from lmjax.train.faults import NonFiniteLoss, check_finite
from lmjax.train.guard import GracefulExit, Watchdog


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_names_step_metric_and_checkpoint(value):
    with pytest.raises(NonFiniteLoss, match=rf"step 12: grad_norm={value} .*last good checkpoint: 10"):
        check_finite({"train/loss": 1.0, "grad_norm": value}, step=12, last_checkpoint=10)
    with pytest.raises(NonFiniteLoss, match="last good checkpoint: none yet"):
        check_finite({"train/loss": value}, step=12, last_checkpoint=None)


def test_finite_numbers_pass():
    assert check_finite({"train/loss": 1.0, "grad_norm": 0.0}, step=12, last_checkpoint=None) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_flag_and_handlers_come_back(number, capfd):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    with GracefulExit() as graceful:
        assert not graceful.should_stop(1)
        os.kill(os.getpid(), number)
        assert graceful.should_stop(2) and graceful.signal_name == number.name
    assert {n: signal.getsignal(n) for n in before} == before
    assert f"{number.name}: saving after this step" in capfd.readouterr().err


def test_outside_the_main_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def body():
        with GracefulExit() as graceful:
            seen.append((signal.getsignal(signal.SIGTERM), graceful.should_stop(1)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


@contextlib.contextmanager
def run_python(code):
    command = [sys.executable, "-u", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.processes
def test_a_second_ctrl_c_ends_a_process_that_is_stuck():
    # A call that neither returns nor lets Python handle a signal, as a collective without its peer.
    code = (
        "import hashlib, os, signal\n"
        "from lmjax.train.guard import GracefulExit\n"
        "with GracefulExit() as graceful:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('stuck' if graceful.should_stop(1) else 'no flag')\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    )
    with run_python(code) as process:
        assert process.stdout.readline() == "stuck\n"
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT
        assert "Ctrl-C again to abort at once" in process.stderr.read()


def test_votes_are_read_one_vote_later_and_on_vote_steps_only(monkeypatch):
    graceful = GracefulExit(vote_every=2)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with graceful:
        assert not any(graceful.should_stop(step) for step in range(1, 5))
        graceful.signal_name = "SIGTERM"
        assert [graceful.should_stop(step) for step in range(5, 11)] == [
            False,
            False,
            False,
            True,
            True,
            True,
        ]


def test_voting_makes_no_implicit_transfer(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with GracefulExit(vote_every=1) as graceful, jax.transfer_guard("disallow"):
        graceful.signal_name = "SIGTERM"
        assert [graceful.should_stop(1), graceful.should_stop(2)] == [False, True]


@pytest.mark.processes
def test_the_watchdog_ends_a_stuck_process_with_the_stacks():
    code = (
        "import time\n"
        "from lmjax.train.guard import Watchdog\n"
        "def stuck_in_a_collective():\n"
        "    time.sleep(60)\n"
        "with Watchdog(0.5 / 60) as watchdog:\n"
        "    watchdog.touch(41)\n"
        "    stuck_in_a_collective()\n"
    )
    with run_python(code) as process:
        assert process.wait(30) == 1
        text = process.stderr.read()
    assert "step 41 was the last to finish" in text and "stuck_in_a_collective" in text


def test_the_watchdog_leaves_a_live_process_alone():
    with Watchdog(0.3 / 60) as watchdog:
        for step in range(6):
            time.sleep(0.1)
            watchdog.touch(step)
    time.sleep(0.4)  # and one that is done
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())


def test_a_compile_or_a_save_may_take_longer_than_a_step():
    with Watchdog(0.1 / 60) as watchdog:
        watchdog.expect_long()
        time.sleep(0.4)
        watchdog.touch(1)
        assert 0 < watchdog._seconds_left() <= 0.1


def test_the_watchdog_is_on_by_default_for_several_processes(monkeypatch):
    assert Watchdog(None)._timeout_seconds == 0
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert Watchdog(None)._timeout_seconds == 30 * 60


def test_measured_steps_shorten_the_time_between_steps_but_not_that_of_evaluations(monkeypatch):
    clock = iter(range(0, 10**9, 40))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("lmjax.train.guard.time.monotonic", lambda: float(next(clock)))
    watchdog, asked = Watchdog(None), Watchdog(7)
    for step in range(17):  # each 40 s after the one before
        assert watchdog._limit_seconds() == 30 * 60
        watchdog.touch(step)
    assert watchdog._limit_seconds() == 20 * 40
    watchdog.touch()
    assert watchdog._limit_seconds() == 30 * 60
    watchdog.touch(17)  # the end of the evaluation, which is no step
    watchdog.expect_long()
    assert watchdog._limit_seconds() == 60 * 60
    watchdog.touch(18)
    assert watchdog._limit_seconds() == 20 * 40
    for step in range(40):
        asked.touch(step)
    assert asked._limit_seconds() == 7 * 60


def test_a_measured_limit_is_never_below_five_minutes(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    watchdog = Watchdog(None)
    for step in range(100):
        watchdog.touch(step)
    assert watchdog._limit_seconds() == 5 * 60


def test_zero_minutes_switch_the_watchdog_off():
    before = threading.active_count()
    with Watchdog(0):
        assert threading.active_count() == before
    with pytest.raises(ValueError, match="timeout_minutes=-1"):
        Watchdog(-1)
