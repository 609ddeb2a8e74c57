"""A folder is one process's; the lock ends with it, whatever ended it."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from lmjax.parallel.folder_lock import LOCK_FILE, FolderInUseError, folder_lock, fresh_folder

HOLD = """
import pathlib, sys, time
from lmjax.parallel.folder_lock import folder_lock
with folder_lock(pathlib.Path(sys.argv[1]), "is being trained"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.processes
def test_another_process_is_refused_until_the_first_has_ended_even_by_sigkill(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        with (
            pytest.raises(FolderInUseError, match=f"run is being trained by process {first.pid} on .+: wait until"),
            folder_lock(folder, "is being prepared"),
        ):
            pass
        assert first.poll() is None and (folder / LOCK_FILE).exists()
        first.send_signal(signal.SIGKILL)
    assert (folder / LOCK_FILE).exists()  # what it left stops nobody
    with folder_lock(folder, "is being prepared"):
        text = (folder / LOCK_FILE).read_text()
        assert text.startswith(f"is being prepared by process {os.getpid()} on ")
    assert not (folder / LOCK_FILE).exists()


def test_a_thread_may_ask_again_and_another_may_not(tmp_path):
    refused = []

    def other():
        try:
            with folder_lock(tmp_path, "is being trained"):
                pass
        except FolderInUseError as error:
            refused.append(str(error))

    with folder_lock(tmp_path, "is being prepared"), folder_lock(tmp_path / "." / "", "is being trained"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1 and f"is being prepared by process {os.getpid()}" in refused[0]
    with folder_lock(tmp_path, "is being trained"):
        pass


def test_one_that_waits_gets_it_afterwards(tmp_path):
    events = []

    def waits():
        with folder_lock(tmp_path, "is being prepared", wait=True):
            events.append("second")

    with folder_lock(tmp_path, "is being prepared"):
        thread = threading.Thread(target=waits)
        thread.start()
        thread.join(timeout=0.2)
        events.append("first")
    thread.join(timeout=10)
    assert events == ["first", "second"] and not (tmp_path / LOCK_FILE).exists()


def test_a_folder_that_nothing_came_of_is_removed_again(tmp_path):
    with pytest.raises(ValueError, match="bad data"), folder_lock(tmp_path / "runs" / "x", "is being trained"):
        raise ValueError("bad data")
    assert not list(tmp_path.iterdir())
    with folder_lock(tmp_path / "runs" / "x", "is being trained"):
        (tmp_path / "runs" / "x" / "config.json").touch()
    assert [path.name for path in (tmp_path / "runs" / "x").iterdir()] == ["config.json"]


def test_a_fresh_folder_holds_nothing_but_perhaps_an_old_lock(tmp_path):
    (tmp_path / LOCK_FILE).write_text("left by a killed process")
    with fresh_folder(tmp_path, "is being made"):
        (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="exists and is not empty"), fresh_folder(tmp_path, "is being made"):
        pass


def test_where_there_are_no_locks_a_warning_is_all(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with folder_lock(tmp_path, "is being trained"):
        pass
    assert f"the file system of {tmp_path} has no locks" in capsys.readouterr().err
