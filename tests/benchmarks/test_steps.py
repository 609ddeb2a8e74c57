"""The sides of a training step compute the same model, and a race tells what each of them does."""

import sys
import typing

import jax
import pytest
import steps_flax
import steps_lmjax
from flax import nnx
from report import add, read, table
from steps import OURS, Contender, Shape, line, race

from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import module_spec
from lmjax.models.transformer import Transformer
from lmjax.train.components import decoder_length

FAMILIES = typing.get_args(typing.get_type_hints(Shape)["family"])


def shape(family: str) -> Shape:
    return Shape(family=family, layers=2, width=64, heads=4, vocabulary=512, length=512, batch=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_model_that_its_objective_accepts(family):
    model = steps_lmjax.model_config(shape(family), ExecutionConfig())
    objective = steps_lmjax.objective(shape(family))
    objective.check(model=model, vocabulary=steps_lmjax.vocabulary(shape(family)), sequence_length=512)
    if family == "t5":
        # What torch is given to decode is as long as what lmjax decodes.
        assert shape(family).target_length == pytest.approx(decoder_length(objective, 512), abs=1)


def test_the_plain_flax_model_has_as_many_parameters_as_ours():
    small = shape("gpt")
    config = steps_lmjax.model_config(small, ExecutionConfig())
    spec = module_spec(lambda key: Transformer(config, rngs=nnx.Rngs(params=key)))
    theirs = nnx.eval_shape(lambda: steps_flax.GPT(small, nnx.Rngs(0)))
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (spec.shapes, nnx.state(theirs, nnx.Param))]
    assert sizes[0] == sizes[1]


SLEEPER = """
import pathlib, sys, time
sys.path.insert(0, {folder!r})
import turns
turns.serve(lambda steps: time.sleep(steps * {seconds}), facts={{"parameters": 3}}, peak=lambda: 7)
"""


@pytest.mark.parametrize("together", [True, False])
def test_a_race_compares_with_ours_and_names_what_is_missing(tmp_path, monkeypatch, together):
    import steps

    for name, seconds in (("ours", 0.01), ("slow", 0.03)):
        (tmp_path / f"{name}.py").write_text(SLEEPER.format(folder=str(steps.FOLDER), seconds=seconds))
    (tmp_path / "broken.py").write_text("import no_such_library")
    monkeypatch.setattr(steps, "FOLDER", tmp_path)
    sides = [
        Contender(name, sys.executable, f"{file}.py") for name, file in ((OURS, "ours"), ("b", "broken"), ("s", "slow"))
    ]
    ours, broken, slow = race(shape("gpt"), sides, rounds=3, steps=2, together=together)
    assert ours.ratio is None and ours.seconds[0] >= 0.01 and ours.peak_bytes == 7
    assert broken.missing == "ModuleNotFoundError: No module named 'no_such_library'"
    assert slow.ratio > 1.2 and slow.tokens_per_second <= 2 * 512 / 0.03
    assert "left out: ModuleNotFoundError" in line(broken)


def test_results_that_were_cut_off_leave_the_others(tmp_path, capsys):
    file = tmp_path / "results.jsonl"
    add(file, part="p", case="c", side="s", ms=2.5, mfu=None)
    add(file, part="p", case="c", side="t", missing="no torch")
    with open(file, "a") as lines:
        lines.write('{"part": "p", "ca')
    assert read(file) == [
        {"part": "p", "case": "c", "side": "s", "ms": 2.5, "mfu": None},
        {"part": "p", "case": "c", "side": "t", "missing": "no torch"},
    ]
    assert "ms 2.5" in table(read(file)) and "left out: no torch" in table(read(file))
