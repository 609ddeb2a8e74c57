"""The large recipes compiled for the TPUs they are meant for (`make test-tpu`): minutes each, on a machine without one.

A recipe says which those are in its top comment, by a line ``lmjax compile RECIPE --topology NAME ...``.
"""

import pathlib
import re

import jax
import pytest

from lmjax.cli.recipe import parse_recipe
from lmjax.compile.checks import faults
from lmjax.compile.prediction import predict
from lmjax.compile.step import compile_step
from lmjax.compile.topology import open_topology, prepare_environment

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
