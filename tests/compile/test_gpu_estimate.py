"""The estimate for GPUs: what is exact of it by hand, what it says, and what it refuses."""

import json

import jax
import pytest

from lmjax.cli.compile import run
from lmjax.compile.gpu import NETWORK_BANDWIDTH, PRODUCT_SHARE, parse_gpus

RECIPE = ["configs/stdlib_demo.py", "--model.execution.dtype", "bfloat16", "--model.dropout", "0"]


@pytest.fixture(autouse=True)
def devices():
    """The devices of the suite are begun with, so that the command cannot ask for others."""
    assert len(jax.devices()) == 8


def figures_of(capsys, *options):
    capsys.readouterr()
    run([*RECIPE, "--json", *options])
    return json.loads(capsys.readouterr().out)


def test_figures_by_hand(capsys):
    """Eight GPUs hold an eighth of all that is split; two layouts differ where they should."""
    whole = figures_of(capsys, "--device", "h100:4", "--model.execution.remat", "full")
    split = figures_of(capsys, "--device", "h100:4", "--mesh.fsdp", "4", "--model.execution.remat", "none")
    assert whole["memory"]["parameters"] == 4 * whole["parameters"] == whole["memory"]["gradients"]
    # Some of its arrays are not split.
    assert split["memory"]["parameters"] == pytest.approx(whole["parameters"], rel=0.1)
    flops = whole["flops_per_token"] * whole["batch_size"] * whole["sequence_length"] / 4
    assert split["computing_seconds"] == pytest.approx(flops / (PRODUCT_SHARE * 989e12))
    assert whole["computing_seconds"] == pytest.approx(4 / 3 * split["computing_seconds"])
    # All gradients are summed over four: to and fro, three quarters of them each time.
    assert whole["exchanging_seconds"] == pytest.approx(2 * 0.75 * 4 * whole["parameters"] / 450e9)
    assert split["exchanging_seconds"] == pytest.approx(0.75 * (2 * 2 + 4) * whole["parameters"] / 450e9)
    assert whole["seconds_per_step"][1] == whole["computing_seconds"] + whole["exchanging_seconds"]
    assert whole["mfu"][0] == pytest.approx(flops / (whole["seconds_per_step"][0] * 989e12))
    assert whole["fits"] and NETWORK_BANDWIDTH < 450e9
    # Whole blocks are computed again: of each, its input is kept, 16 bits a feature.
    tokens = whole["batch_size"] * whole["sequence_length"] // 4
    kept, everything = (one["memory"]["kept for the backward pass"] for one in (whole, split))
    assert kept < everything / 4
    config = whole["model"]
    assert kept >= 2 * tokens * config["width"] * config["num_layers"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("p100:8", "unknown kind 'p100'; known: a100-40, a100-80, h100, h200, b200"),
        ("h100", "write the number of GPUs after the kind, as in h100:8"),
        ("h100:0", "write the number of GPUs"),
    ],
)
def test_names_of_gpus(name, message):
    with pytest.raises(ValueError, match=message):
        parse_gpus(name)


def test_what_does_not_go_together():
    with pytest.raises(ValueError, match="--device and --topology: choose one"):
        run([*RECIPE, "--device", "h100:8", "--topology", "v5e:2x2"])
    with pytest.raises(ValueError, match="jax has begun with 8 devices: run this in a new process"):
        run([*RECIPE, "--device", "h100:16"])


def test_a_step_that_does_not_fit_ends_the_command_with_exit_code_1(capsys, monkeypatch):
    figures = {
        "recipe": "r", "device": "a100-40:1", "mesh": {"data": 1, "fsdp": 1}, "batch_size": 4, "microbatches": 2,
        "remat": "full", "sequence_length": 8, "parameters": 9, "flops_per_token": 54, "fits": False,
        "memory": {"parameters": 50e9, "peak": 50e9, "device": 40e9}, "computing_seconds": 2.0,
        "exchanging_seconds": 1.0, "seconds_per_step": [2.0, 3.0], "mfu": [0.6, 0.4], "assumed": ["one thing"],
    }  # fmt: skip
    monkeypatch.setattr("lmjax.cli.compile.estimate", lambda config, name: figures)
    with pytest.raises(SystemExit) as caught:
        run([*RECIPE, "--device", "a100-40:1"])
    assert caught.value.code == 1
    said = " ".join(capsys.readouterr().out.split())
    for part in ("r on a100-40:1: one GPU, 4 rows of 8", "parameters 50.00", "does not fit", "MFU 40% to 60%", "- one"):
        assert part in said
