"""Output that is closed, not UTF-8, full or unread: one subprocess each, for it is the process that must survive."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

UNFAILING = """
import os, sys
from lmjax.cli.streams import repair_streams, unfailing_output
repair_streams()
with unfailing_output():
    for step in range(1000):
        print(f"step {step} \\u00b7 loss", flush=True)
        print(f"note {step} \\u00b7 loss", file=sys.stderr, flush=True)
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(file, str(file).encode())
"""


@pytest.mark.parametrize(
    "how",
    ["{} >&- 2>&-", "{} <&- >&- 2>&-", "{} > /dev/full 2> /dev/full", "{{ {}; }} 2>&1 | head -1", "{} 2>&1 | true"],
)
def test_work_goes_on_whatever_becomes_of_its_output(tmp_path, how):
    command = f"'{sys.executable}' -c \"$SCRIPT\" '{tmp_path / 'done'}'"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {how.format(command)}"],
        env=os.environ | {"SCRIPT": UNFAILING, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # Files are not mistaken for streams that were closed.
    assert int((tmp_path / "done").read_text()) > 2
    if "head" in how:
        assert done.stdout in ("step 0 \\xb7 loss\n", "note 0 \\xb7 loss\n")
    assert not done.stderr


def test_commands_tell_of_addresses_and_help_ends_quietly(lmjax, workspace, tmp_path):
    recipe = workspace / "tiny.py"
    for arguments in (
        ("train", recipe, "--folder", "az://bucket/run"),
        ("prepare", recipe, "--data.prepared", "az://bucket/data"),
        ("train", recipe, "--data.prepared", "ftp://host/data"),
        ("train", recipe, "--tokenizer.path", "https://host/tokenizer.json"),
        ("train", recipe, "--train.init-from", "az://bucket/run"),
        ("export", workspace / "tiny", "gs://bucket/export"),
        ("import", "hf://gpt2", tmp_path / "run"),
        ("sample", "az://bucket/run"),
        ("evaluate", workspace / "tiny", "--prepared", "ftp://host/data"),
        ("plot", workspace / "tiny", "--output", "gs://bucket/run.png"),
        ("tokenizer", "gs://bucket/run"),
    ):
        result = lmjax(*arguments)
        assert result.code == 2 and "only paths of local and mounted file systems" in result.message, result
    # Text is read from addresses too, if there is a package for them.
    unknown = lmjax("prepare", recipe, "--data.path", "nosuch://bucket/text")
    assert unknown.code == 2 and "nosuch://bucket/text: " in unknown.message, unknown
    command = [sys.executable, "-m", "lmjax", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(60) == 1 and process.stderr.read() == b""
