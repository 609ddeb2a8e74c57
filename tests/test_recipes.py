"""Every recipe loads, says how it is run, and builds, abstractly: nothing of a large model is allocated."""

import dataclasses
import json
import math
import pathlib
import re

import jax
import numpy as np
import pytest
from shape_names import watched

from lmjax.objectives.parts.objective import all_terms
from lmjax.parallel.mesh import MESH_AXES
from lmjax.schedules.ramp import at_step
from lmjax.tokenizers.planned import planned_vocabulary
from lmjax.train.config import RunConfig
from lmjax.train.config_file import from_json, to_json
from lmjax.train.open_corpus import open_corpus
from lmjax.train.recipes import find_recipe, load_recipe
from lmjax.train.setup import build_learner, resolve
from lmjax.types import Rows

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
RECIPES = sorted(path for room in (".", "small", "papers") for path in (CONFIGS / room).glob("*.py"))

PUBLISHED = {
    "gpt2_124m": 124_439_808,
    "llama_1b": 1_235_814_400,
    "llama_7b": 6_738_415_616,
    "llama_70b": 68_976_648_192,
    "starcoder_1b": 1_137_207_296,
    "mixtral_8x7b": 46_702_792_704,
    "deepseek_moe_16b": 16_375_728_128,
}
"""Parameters of the models the recipes are named after, as their authors' checkpoints have them."""


def built(config: RunConfig):
    tokenizer = config.tokenizer
    if tokenizer.path is not None:
        # Of another run, which is not there: one of as many ids will do.
        size = config.model.vocab_size
        tokenizer = dataclasses.replace(tokenizer, path=None, kind="bpe", vocab_size=size)
    vocabulary = planned_vocabulary(tokenizer)
    # Of a pod, its parameters over as many devices as there are.
    mesh = dataclasses.replace(config.mesh, fsdp=min(config.mesh.fsdp, jax.device_count()))
    config = resolve(dataclasses.replace(config, mesh=mesh), vocabulary)
    devices = jax.devices()[: math.prod(getattr(config.mesh, axis) for axis in MESH_AXES if axis != "data")]
    return config, build_learner(config, vocabulary, devices=devices)


def loss_of(learner):
    """The loss of a training step as a function of state and rows."""
    objective = learner.objective

    def loss(state, rows):
        there = at_step(objective, state.step)
        batch = there.corrupt(state.key, rows, learner.vocabulary)
        batch = dataclasses.replace(batch, carry=state.carry)
        return there.total(all_terms(there, learner.spec.bind(state.params), batch, None)[0])

    return loss


def rows_of(config: RunConfig, learner) -> Rows:
    """The shapes of the rows of a step."""
    shape = (config.train.batch_size, learner.objective.row_length(config.train.sequence_length))
    ids = jax.ShapeDtypeStruct(shape, np.int32)
    return Rows(tokens_BT=ids, segments_BT=None if config.data.packing in ("windows", "streams") else ids)


def top_comment(path: pathlib.Path) -> str:
    return path.read_text().split('"""')[1]


def num_parameters(learner) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(learner.spec.shapes))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_builds_as_large_as_it_says(path):
    config, learner = built(load_recipe(path))
    assert config.name == path.stem
    size = re.search(r"([\d.]+)([MB]) parameters", top_comment(path))
    assert size, "state the size, as in '1.6M parameters'"
    stated = float(size[1]) * {"M": 1e6, "B": 1e9}[size[2]]
    assert num_parameters(learner) == pytest.approx(stated, rel=0.04)
    if path.parent.name != "papers":
        # The small recipes train with every objective. Watching slows tracing down, so there is no gradient here.
        with jax.set_mesh(learner.mesh), watched() as misnamed:
            assert jax.eval_shape(loss_of(learner), learner.abstract_state, rows_of(config, learner)).shape == ()
        assert not misnamed


@pytest.mark.long
@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "papers"], ids=lambda path: path.stem)
def test_the_whole_step_of_a_paper_is_traced(path):
    """With its corruption, loss, gradient and optimizer, and every check of shapes."""
    config, learner = built(load_recipe(path))
    with jax.set_mesh(learner.mesh):
        state, metrics = jax.eval_shape(learner.train_step, learner.abstract_state, rows_of(config, learner))
    assert jax.tree.structure(state) == jax.tree.structure(learner.abstract_state)
    assert metrics["loss"].shape == ()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_size_of_the_model_it_is_named_after(name):
    recipe = load_recipe(find_recipe(name))
    exact = to_json(recipe) | {"model": to_json(recipe.model) | {"pad_vocab_to": 1}}
    assert num_parameters(built(from_json(RunConfig, exact))[1]) == PUBLISHED[name]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_top_comment_gives_the_command(path):
    comment = top_comment(path)
    assert f"\n    lmjax train {path.relative_to(CONFIGS.parent)}" in comment
    assert not re.search(r"\b(COST|TIME|LOSS|EARLY|RESULT|TODO)\b", comment), "figures are still to be filled in"
    for line in comment.splitlines():
        words = line.split()
        if words[:2] == ["lmjax", "compile"]:
            assert words[2] == str(path.relative_to(CONFIGS.parent)) and words[3] == "--topology"
        elif words[:1] == ["lmjax"] and words[1] != "train":
            assert words[2] == f"runs/{path.stem}"
    if path.parent.name == "papers":
        assert f"\n    lmjax compile {path.relative_to(CONFIGS.parent)} --topology " in comment, "it names no chips"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_survives_json(path):
    recipe = load_recipe(path)
    assert from_json(RunConfig, json.loads(json.dumps(to_json(recipe)))) == recipe


@pytest.mark.parametrize("name", ["gpt2_124m", "llama_1b", "bert_base"])
def test_absent_data_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(find_recipe(name))
    with pytest.raises(ValueError, match=r"data\.path='data/.*': no file there.*name a file, a folder or a glob"):
        open_corpus(recipe.data, recipe.tokenizer)
    assert not list(tmp_path.iterdir())
