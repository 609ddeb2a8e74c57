"""Outside of the training loop a signal ends the process at once, with a word, wherever the main thread is."""

import os
import signal
import subprocess
import sys

import pytest

from lmjax.parallel.paths import refuse_address
from lmjax.parallel.signals import ending_at_once

pytestmark = pytest.mark.processes

STUCK = """
import hashlib, time
from lmjax.parallel.signals import ending_at_once, kept
with ending_at_once(), kept("the first part is kept"):
    print("ready", flush=True)
    print("printed before", end="")
    {stuck}
"""


@pytest.mark.parametrize(
    ("number", "stuck", "said"),
    [
        # A call that does not come back to Python, as a compile, and one that Python could interrupt.
        (signal.SIGTERM, "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)", "SIGTERM: ended; the first part is kept\n"),
        (signal.SIGINT, "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)", "interrupted; the first part is kept\n"),
        (signal.SIGINT, "time.sleep(60)", "interrupted; the first part is kept\n"),
    ],
)
def test_a_signal_ends_with_a_word_and_128_and_its_number(number, stuck, said):
    with subprocess.Popen(
        [sys.executable, "-c", STUCK.format(stuck=stuck)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background ignores Ctrl-C for them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(20) == 128 + number
        assert process.stdout.read() == "printed before" and process.stderr.read() == said


def test_handlers_come_back_and_one_taken_inside_is_heard():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    heard = []
    with ending_at_once():
        taken = signal.signal(signal.SIGTERM, lambda *_: heard.append("SIGTERM"))
        os.kill(os.getpid(), signal.SIGTERM)
        signal.signal(signal.SIGTERM, taken)
    assert heard == ["SIGTERM"]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ending_at_once():
            os.kill(os.getpid(), signal.SIGTERM)
            # Still here, and still deaf to it.
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("gs://bucket/run", "mount the bucket (with gcsfuse)"),
        ("gs:/bucket/run", "mount the bucket (with gcsfuse)"),  # as pathlib writes it
        ("S3://bucket", "mount-s3"),
        ("https://host/file.jsonl", "copy it to a disk"),
        ("hf://datasets/x", "mount it, or copy it"),
        ("file:///data", "without file://"),
    ],
)
def test_addresses_are_refused(path, remedy):
    with pytest.raises(ValueError) as error:
        refuse_address("folder", path)
    assert str(error.value).startswith(f"folder={path}: only paths") and remedy in str(error.value)


@pytest.mark.parametrize("path", [None, "runs/gs", "/mnt/gs:/x", "a b://x", "c:/data", "stdlib", "corpus/*.jsonl"])
def test_paths_are_paths(path):
    assert refuse_address("folder", path) is None
