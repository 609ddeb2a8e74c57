"""The supervisor starts a run again after faults, gives up without progress, and passes signals on."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from lmjax.cli.supervise import supervise
from lmjax.cli.train import _supervised


def script(folder: pathlib.Path, body: str) -> list[str]:
    """A program that counts its starts in a file, and then does something."""
    count = folder / "starts"
    return [sys.executable, "-c", f"""
import os, pathlib, signal, sys, time
count = pathlib.Path({str(count)!r})
start = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(start))
saved = pathlib.Path({str(folder / "saved")!r})
{body}
"""]  # fmt: skip


def run(folder: pathlib.Path, body: str, *, limit: int) -> tuple[int, int, list[str]]:
    """The exit code, the number of starts, and what was said."""
    said: list[str] = []
    saved = folder / "saved"
    code = supervise(
        script(folder, body),
        limit=limit,
        saved_step=lambda: int(saved.read_text()) if saved.exists() else None,
        say=said.append,
        pause=0.0,
    )
    return code, int((folder / "starts").read_text()), said


def test_a_run_that_saves_before_each_fault_is_started_until_it_is_done(tmp_path):
    body = "saved.write_text(str(start * 10)); sys.exit(0 if start == 4 else 1)"
    code, starts, said = run(tmp_path, body, limit=1)
    assert (code, starts) == (0, 4)
    assert said[0] == (
        "supervisor: the run ended with code 1, with a checkpoint of step 10: starting it again (0 of 1 starts without "
        "progress)"
    )


def test_without_progress_it_gives_up_and_says_why(tmp_path):
    body = "start == 1 and saved.write_text('7'); os.kill(os.getpid(), signal.SIGKILL)"
    code, starts, said = run(tmp_path, body, limit=2)
    assert (code, starts) == (137, 3)
    assert said[-1].startswith(
        "supervisor: the run ended by SIGKILL, with a checkpoint of step 7. That was start 2 in a row that saved "
        "nothing new (--supervise 2): giving up"
    )


def test_what_a_person_has_to_mend_is_not_started_again(tmp_path):
    assert run(tmp_path, "sys.exit(2)", limit=5) == (2, 1, [])


def test_a_storage_that_answered_an_earlier_start_is_waited_for(tmp_path):
    body = """
from lmjax.remote.bucket import Bucket
bucket = Bucket("memory://bucket/run")
if start == 3:
    sys.exit(0)
if start == 1:
    bucket.write("x", b"1")
    os.kill(os.getpid(), signal.SIGKILL)
def refused(*_, **__):
    raise ConnectionRefusedError(111, "Connection refused")
bucket._files.cat_file = refused
try:
    Bucket("memory://bucket/run").read("x")
except Exception as error:
    sys.exit(2 if isinstance(error, ValueError) else 1)
"""
    code, starts, said = run(tmp_path, body, limit=5)
    assert (code, starts) == (0, 3)
    assert said[1].startswith("supervisor: the run ended with code 1")
    # One that no start has reached is probably not the one that was meant.
    (tmp_path / "starts").unlink()
    assert run(tmp_path, body.replace("start == 1", "False"), limit=5)[:2] == (2, 1)


def test_a_signal_goes_to_the_run_which_is_then_not_started_again(tmp_path):
    body = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); saved.write_text('1'); time.sleep(30)"

    def send():
        while not (tmp_path / "saved").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    before = signal.getsignal(signal.SIGTERM)
    assert run(tmp_path, body, limit=5) == (3, 1, [])
    sender.join()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_ends_with_its_supervisor(tmp_path):
    body = "saved.write_text(str(os.getpid())); time.sleep(60)"
    code = (
        "from lmjax.cli.supervise import supervise\n"
        f"supervise({script(tmp_path, body)!r}, limit=1, saved_step=lambda: None, say=print)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as supervisor:
        while not (tmp_path / "saved").exists():
            time.sleep(0.01)
        supervisor.kill()
    child = int((tmp_path / "saved").read_text() or 0)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and pathlib.Path(f"/proc/{child}").exists():
        status = pathlib.Path(f"/proc/{child}/status").read_text() if pathlib.Path(f"/proc/{child}").exists() else "Z"
        if "State:\tZ" in status:
            break
        time.sleep(0.02)
    else:
        assert not pathlib.Path(f"/proc/{child}").exists()


@pytest.mark.parametrize("words", [["--supervise"], ["--supervise", "0"], ["--supervise=x"], ["--supervise", "-1"]])
def test_an_impossible_number_is_refused(words):
    with pytest.raises(ValueError, match="at least 1"):
        _supervised(["recipe", *words])
    assert _supervised(["recipe", "--supervise=3", "--train.steps", "4"]) == (3, ["recipe", "--train.steps", "4"])
