"""The page on optimizers: its example learns, is named in config.json, and its table is of the classes there are."""

import importlib.util
import pathlib
import re
import sys

import numpy as np
import pytest
import tiny

from lmjax.choice import members
from lmjax.train.config import RunConfig
from lmjax.train.config_file import from_json, to_json
from lmjax.train.optimizers import Optimizer

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "optimizers.md"


@pytest.fixture(scope="module")
def signum(tmp_path_factory):
    """The class of the page, from a module of its own."""
    path = tmp_path_factory.mktemp("package") / "signum.py"
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("page_signum", path)
    sys.modules["page_signum"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.Signum
    del sys.modules["page_signum"]


def test_the_example_learns_and_is_written_by_its_name(signum):
    losses = tiny.train_losses(tiny.learner(optimizer=signum(learning_rate=1e-2)), steps=20)
    assert np.mean(losses[-5:]) < losses[0] - 0.1
    config = RunConfig(name="x", optimizer=signum(momentum=0.5))
    written = to_json(config)
    assert written["optimizer"]["type"] == "page_signum:Signum"
    assert from_json(RunConfig, written) == config


def test_its_table_names_every_optimizer():
    named = set(re.findall(r"^\| `(\w+)", PAGE.read_text(), re.MULTILINE))
    ours = {kind.__name__ for name, kind in members(Optimizer).items() if name.startswith("lmjax.")}
    assert named == ours
