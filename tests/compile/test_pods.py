"""The large recipes compiled for the TPUs they are meant for (`make test-tpu`): minutes each, on a machine without one.

A recipe says which those are in its top comment, by a line ``lmjax compile RECIPE --topology NAME ...``.
"""

import pathlib
import re

import jax
import pytest

from lmjax.cli.recipe import parse_recipe
from lmjax.compile.checks import faults
from lmjax.compile.decoding import Writing, compile_decoding
from lmjax.compile.memory_plan import plan_step
from lmjax.compile.prediction import planned_figures, predict
from lmjax.compile.roofline import predict_decoding
from lmjax.compile.step import compile_step
from lmjax.compile.topology import open_topology, prepare_environment
from lmjax.runs.writing import EVERY

pytestmark = pytest.mark.tpu

ROOT = pathlib.Path(__file__).parents[2]
PAPERS = ROOT / "configs" / "papers"
COMMANDS = {
    path.stem: [str(path), *found[1].replace("\\\n", " ").split()[1:]]
    for path in sorted(PAPERS.glob("*.py"))
    if (found := re.search(r"\n    lmjax compile ((?:.*\\\n)*.*)", path.read_text()))
}
SMALL = [str(ROOT / "configs" / "stdlib_demo.py"), "--topology", "v5e:2x2"]


@pytest.fixture(scope="module")
def log_folder():
    folder = prepare_environment()
    # The suite's compiles are quick and poor; these are to be those of a run.
    jax.config.update("jax_disable_most_optimizations", False)
    yield folder
    jax.config.update("jax_disable_most_optimizations", True)


def test_decoding_is_split_over_the_heads_and_each_token_is_counted(log_folder):
    config = parse_recipe("compile", [SMALL[0], "--model.num-layers", "1", "--mesh.tensor", "2"])
    writing = Writing(batch_size=8, prompt_length=64, max_new_tokens=60)
    figures = predict_decoding(compile_decoding(config, open_topology("v5e:2x2"), writing, log_folder=log_folder))
    assert figures["fits"] and figures["cache_length"] == 128
    assert not any("rounds" in line for line in figures["assumed"])
    decode = figures["decode"]
    assert {axis for row in decode["collectives"] for axis in row["axes"]} <= {"tensor", "data"}
    assert decode["seconds_per_token"] == pytest.approx(decode["seconds_per_step"] / EVERY, rel=0.01)
    # Keys and values of three heads of 32, of four rows, are on a chip.
    assert decode["reads"]["cache"] == 2 * 4 * 3 * 128 * 32 * 4


@pytest.mark.parametrize(
    ("fsdp", "gradient", "times"), [("1", "step", [1]), ("4", "step", [1]), ("4", "microbatch", [4, 4])]
)
def test_devices_sum_the_table_of_stdlib_demo_as_often_as_asked(fsdp, gradient, times, log_folder):
    changes = ["--model.num-layers", "1", "--train.microbatches", "4", "--mesh.fsdp", fsdp]
    changes += ["--model.execution.table-gradient", gradient]
    config = parse_recipe("compile", [SMALL[0], *changes])
    figures, _ = predict(compile_step(config, open_topology("v5e:2x2"), log_folder=log_folder))
    # Of no other array of this model are there so many bytes: 2,048 rows of 192 in float32.
    of_table = [row for row in figures["collectives"] if row["bytes"] >= 2048 * 192 * 4]
    sums = [row["times"] for row in of_table if row["kind"] in ("all-reduce", "reduce-scatter")]
    assert sums == times


@pytest.mark.parametrize("changes", [[], ["--mesh.fsdp", "4", "--train.microbatches", "2"]], ids=["whole", "split"])
def test_the_plan_is_that_of_a_whole_compile(changes, log_folder, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    config = parse_recipe("compile", [SMALL[0], "--model.num-layers", "1", *changes])
    topology = open_topology("v5e:2x2")
    planned, compiled = plan_step(config, topology), compile_step(config, topology, log_folder=log_folder)
    assert planned.fits and planned.memory is not None and compiled.memory is not None
    assert planned.memory.arguments == compiled.memory.arguments
    # Code generation changes the temporaries, of a small model by some MiB.
    assert 0 < planned.memory.temporaries == pytest.approx(compiled.memory.temporaries, abs=2**22)
    ours, theirs = (planned_figures(step)["memory"]["largest"] for step in (planned, compiled))
    assert ours[0] == theirs[0]


@pytest.mark.parametrize("name", ["stdlib_demo", *COMMANDS])
def test_a_recipe_fits_its_chips_and_splits_what_it_should(name, log_folder):
    recipe, option, topology, *changes = COMMANDS.get(name, SMALL)
    assert option == "--topology"
    config = parse_recipe("compile", [recipe, *changes])
    step = compile_step(config, open_topology(topology), log_folder=log_folder)
    assert faults(step) == []
    figures, _ = predict(step)
    print(f"{name} on {topology}: MFU {figures['mfu']:.1%}, {figures['memory']['margin'] / 2**30:.2f} GiB to spare")
    assert 0.01 < figures["mfu"] < 1
    # The estimate is of the whole step: no loop is taken for one round, and little is of no known part.
    assert not any("rounds" in line for line in figures["assumed"])
