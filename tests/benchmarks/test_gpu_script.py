"""The script for GPU machines, on a CPU: a part that fails, or that has no time, takes nothing from the others."""

import json
import os
import subprocess
import sys

import pytest
import steps

SCRIPT = steps.FOLDER / "gpu" / "run.sh"


def run(tmp_path, *options: str) -> tuple[subprocess.CompletedProcess, list[dict]]:
    # The eight devices and the flags of these tests are not for it.
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTHONPATH")}
    output = tmp_path / "results"
    ended = subprocess.run(
        ["bash", str(SCRIPT), "--tiny", "--output", str(output), *options],
        env=environment | {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    return ended, json.loads((output / "results.json").read_text()) if (output / "results.json").exists() else []


def test_without_time_it_says_so_of_every_part(tmp_path):
    ended, results = run(tmp_path, "--seconds", "3")
    assert ended.returncode == 1 and ended.stdout.count("no time left") == 5
    assert results == []


def test_unknown_and_unfinished_options_are_refused(tmp_path):
    for options, message in ((["--tinny"], "unknown option --tinny"), (["--wheels"], "--wheels needs a value")):
        ended, _ = run(tmp_path, *options)
        assert ended.returncode == 2 and message in ended.stderr


@pytest.mark.long
def test_it_runs_whole_with_tiny_shapes(tmp_path):
    # A python without torch: the sides of torch are left out, by name.
    ended, results = run(tmp_path, "--seconds", "3000", "--torch-python", "/bin/false")
    parts = {}
    for row in results:
        parts.setdefault(row["part"], {})[row["case"], row["side"]] = row
    print(ended.stdout)
    assert list(parts) == [
        "parity of attention",
        "speed of attention",
        "decoders",
        "masked encoders",
        "products of 8 bits",
    ]
    assert parts["parity of attention"]["packed, bfloat16", "chunked"]["verdict"] == "ok"
    assert all(row["tflops"] > 0 for row in parts["speed of attention"].values() if row["side"] == "lmjax chunked")
    for part in ("decoders", "masked encoders", "products of 8 bits"):
        ours = [row for row in parts[part].values() if row["side"] == "lmjax"]
        assert ours and all(row["tokens_per_second"] > 0 for row in ours)
        assert all("missing" in row for row in parts[part].values() if "torch" in row["side"])
