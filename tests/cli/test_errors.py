import errno
import subprocess
import sys

import pytest

from lmjax.cli.errors import run_command
from lmjax.train.faults import NonFiniteLoss


def fail(error):
    def command():
        raise error

    return command


def run(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_command(command)
    return exit_.value.code, capsys.readouterr().err


@pytest.fixture(autouse=True)
def no_debug(monkeypatch):
    monkeypatch.delenv("LMJAX_DEBUG", raising=False)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("train.steps=0: must be at least 1"), 2, "error: train.steps=0: must be at least 1\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a.txt"),
            2,
            "error: a.txt: No such file or directory\n",
        ),
        (FileExistsError("runs/x belongs to another run"), 2, "error: runs/x belongs to another run\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "runs/x"),
            2,
            "error: runs/x: Permission denied; check its permissions, or choose another path\n",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "runs"),
            2,
            "error: runs: Read-only file system; choose a folder that can be written\n",
        ),
        (NonFiniteLoss("step 7: train/loss=nan"), 1, "error: step 7: train/loss=nan\n"),
    ],
)
def test_what_we_foresaw_is_one_message(error, code, message, capsys):
    assert run(fail(error), capsys) == (code, message)


def test_a_full_disk_is_a_fault(capsys):
    code, text = run(fail(OSError(errno.ENOSPC, "No space left on device", "runs/x")), capsys)
    assert code == 1 and text.startswith("error: runs/x: No space left on device; free some space")


def test_out_of_memory_says_what_to_do(capsys):
    code, text = run(fail(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.\nmore")), capsys)
    assert code == 1 and "smaller batch" in text and "more\n" not in text


def test_what_nobody_foresaw_is_one_line_and_a_hint(capsys):
    code, text = run(fail(KeyError("tokens")), capsys)
    assert code == 1 and text == "error: unexpected KeyError: 'tokens' (set LMJAX_DEBUG=1 for the traceback)\n"


def test_ctrl_c_is_130_and_success_is_0(capsys):
    assert run(fail(KeyboardInterrupt()), capsys) == (130, "interrupted\n")
    assert run(lambda: "a result", capsys) == (0, "")


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("LMJAX_DEBUG", "1")
    code, text = run(fail(ValueError("train.steps=0")), capsys)
    assert code == 2 and "Traceback" in text and text.endswith("error: train.steps=0\n")


@pytest.mark.processes
def test_a_reader_that_has_gone_is_no_traceback():
    script = (
        "from lmjax.cli.errors import run_command\n"
        "run_command(lambda: [print('line', flush=True) for _ in range(10**6)])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == ""
