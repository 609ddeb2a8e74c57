"""The page on adding an objective: its code is taken from it, trains, and its test holds."""

import importlib.util
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.train.config import RunConfig
from lmjax.train.config_file import from_json, to_json
from lmjax.train.recipes import load_recipe
from lmjax.types import Rows

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "add-an-objective.md"
MODULE = "lmjax.objectives.reverse_lm"


@pytest.fixture(scope="module")
def blocks():
    text = PAGE.read_text()
    assert len(text.splitlines()) <= 60
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def imported(name: str, path: pathlib.Path, source: str):
    """The source as a module of this name, read from a file as any other is."""
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def module(blocks, tmp_path_factory):
    """The page's first block, imported as the file it says it is."""
    yield imported(MODULE, tmp_path_factory.mktemp("objective") / "reverse_lm.py", blocks[0])
    del sys.modules[MODULE]


def test_its_rows_are_turned_and_predicted(module):
    rows = Rows(tokens_BT=jnp.array([[5, 6, 7, 8, 0]] * 64), segments_BT=jnp.array([[1, 1, 2, 2, 0]] * 64))
    batch = module.ReverseLM().corrupt(jax.random.key(0), rows, tiny.VOCABULARY)
    turned = np.asarray(batch.inputs.tokens_BT)[:, 0] == 0
    assert 16 < turned.sum() < 48
    np.testing.assert_array_equal(batch.targets_BP[turned], [[8, 7, 6, 5]] * turned.sum())
    np.testing.assert_array_equal(batch.weights["loss"][turned], [[0, 1, 0, 1]] * turned.sum())
    np.testing.assert_array_equal(batch.targets_BP[~turned], [[6, 7, 8, 0]] * (~turned).sum())


def test_it_learns(module):
    losses = tiny.train_losses(tiny.learner(module.ReverseLM()), steps=40)
    assert np.mean(losses[-5:]) < losses[0] - 0.2


def test_its_recipe_loads_and_survives_json(blocks, module, tmp_path):
    path = tmp_path / "reverse_small.py"
    path.write_text(blocks[1])
    recipe = load_recipe(path)
    assert recipe.objective == module.ReverseLM()
    assert from_json(RunConfig, to_json(recipe)) == recipe


def test_its_test_holds_and_can_fail(blocks, module, tmp_path):
    (name,) = re.findall(r"def (test_\w+)", blocks[2])
    leaky = blocks[0].replace('"causal"', '"bidirectional"')
    assert leaky != blocks[0]
    imports = f"import dataclasses\nimport jax\nimport numpy as np\nimport tiny\nfrom {MODULE} import ReverseLM\n"
    page = imported("reverse_lm_test", tmp_path / "reverse_lm_test.py", imports + blocks[2])
    getattr(page, name)()
    page.ReverseLM = imported("leaky", tmp_path / "leaky.py", leaky).ReverseLM
    with pytest.raises(AssertionError):
        getattr(page, name)()
