"""What a run will do is computed once: its rows are those that a preview shows, whatever the packing."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny
from tiny_run import write_corpus

from lmjax.analysis.preview_batch import step_rows
from lmjax.data.config import DataConfig
from lmjax.objectives import CausalLM, PairwiseReward
from lmjax.parallel.mesh import MeshConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train import loop, record, setup
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.config_file import write_config
from lmjax.train.open_corpus import open_corpus
from lmjax.train.plan import make_plan

pytestmark = [pytest.mark.run, pytest.mark.usefixtures("one_device")]
PACKINGS = {
    "windows": {"packing": "windows"},
    "segments": {"packing": "segments"},
    "best_fit": {"packing": "best_fit"},
    "streams": {"packing": "streams"},
    "examples": {"packing": "examples", "members": ("chosen", "rejected")},
}


def run_config(folder, packing: str, **train) -> RunConfig:
    """A run on text of which each row is another."""
    if packing == "examples":
        path = folder / "pairs.jsonl"
        pairs = [{"chosen": f"yes {n}" * (1 + n % 4), "rejected": f"no {n}"} for n in range(200)]
        path.write_text("\n".join(map(json.dumps, pairs)))
    else:
        path = write_corpus(folder / "text")
    return RunConfig(
        name="planned",
        folder=str(folder / "run"),
        objective=PairwiseReward() if packing == "examples" else CausalLM(),
        model=dataclasses.replace(tiny.MODEL, vocab_size=0, pad_vocab_to=1, num_layers=1),
        tokenizer=TokenizerConfig(kind="bytes"),
        data=DataConfig(path=str(path), prepared=str(folder / "data"), valid_fraction=0.2, **PACKINGS[packing]),
        train=TrainConfig(**{"batch_size": 4, "sequence_length": 16, "seed": 3, **train}),
        mesh=MeshConfig(data=1),
    )


def assert_preview_shows_what_is_trained_on(config: RunConfig, steps=(0, 5)) -> list[np.ndarray]:
    plan = make_plan(config)
    seen = []
    for step in steps:
        batches = plan.batches(plan.curriculum, start_step=step)
        trained, shown = next(batches), step_rows(config, plan.corpus, step)
        batches.close()
        assert jax.tree.structure(trained) == jax.tree.structure(shown)
        jax.tree.map(np.testing.assert_array_equal, trained, shown)
        seen.append(np.asarray(trained.tokens_BT))
    assert seen[0].shape != seen[1].shape or (seen[0] != seen[1]).any()
    return seen


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_preview_shows_the_rows_that_training_reads(tmp_path, packing):
    first, _ = assert_preview_shows_what_is_trained_on(run_config(tmp_path, packing))
    if packing == "streams":
        # Four streams begin in four places of the text, which rows of one stream after the other do not.
        assert first.shape == (4, 17) and not any((first[row, -1] == first[row + 1, 0]) for row in range(3))


def test_a_preview_shows_the_rows_of_a_mixture_and_of_a_sequence_warm_up(tmp_path):
    base = run_config(tmp_path, "best_fit", sequence_warmup=((4, 8),))
    assert_preview_shows_what_is_trained_on(base)
    mixture = dataclasses.replace(
        base.data, prepared=None, mixture=(str(tmp_path / "data"),) * 2, mixture_weights=(2.0, 1.0)
    )
    for packing in ("best_fit", "windows"):
        mixed = dataclasses.replace(base, data=dataclasses.replace(mixture, packing=packing))
        first, later = assert_preview_shows_what_is_trained_on(mixed)
        assert (first.shape, later.shape) == ((8, 9), (4, 17))


def test_curriculum_and_layout_are_computed_once_and_again_only_where_the_batch_size_has_changed(tmp_path, monkeypatch):
    calls = []

    def counted(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, **named: calls.append(name) or function(*given, **named))

    counted(setup, "curriculum")
    counted(setup, "make_mesh")
    counted(record, "curriculum")
    config = run_config(tmp_path, "windows", steps=1, eval_every=0, tensorboard=False)
    loop.train(config, say=lambda _: None)
    assert sorted(calls) == ["curriculum", "make_mesh"]
    calls.clear()
    train = dataclasses.replace(config.train, steps=2, batch_size=2, change_on_resume=("train.batch_size",))
    assert loop.train(dataclasses.replace(config, train=train), say=lambda _: None).step == 2
    assert sorted(calls) == ["curriculum", "curriculum", "make_mesh"]


@pytest.mark.parametrize("field", ["init_from", "branch_from"])
def test_a_run_to_begin_with_that_is_not_there_is_refused_before_data_are_prepared(tmp_path, field):
    config = run_config(tmp_path, "windows")

    def refusal(path):
        wrong = dataclasses.replace(config, train=dataclasses.replace(config.train, **{field: str(path)}))
        with pytest.raises(ValueError) as error:
            make_plan(wrong)
        assert not (tmp_path / "data").exists()
        return str(error.value)

    assert f"train.{field}={tmp_path / 'nowhere'}: " in refusal(tmp_path / "nowhere")
    other = tmp_path / "other"
    other.mkdir()
    write_config(dataclasses.replace(config, folder=str(other)), other / "config.json")
    assert "there is no such checkpoint" in refusal(other)
    assert "there is no such checkpoint" in refusal(other / "checkpoints" / "7")


def test_a_run_that_goes_on_does_not_ask_for_the_run_that_it_began_with(tmp_path):
    config = run_config(tmp_path, "windows", init_from=str(tmp_path / "gone"))
    (tmp_path / "run" / "checkpoints" / "5").mkdir(parents=True)
    assert make_plan(config).config.train.init_from == str(tmp_path / "gone")


def test_a_plan_that_cannot_be_made_leaves_no_run_behind(tmp_path):
    config = run_config(tmp_path, "streams", sequence_warmup=((4, 8),))
    with pytest.raises(ValueError, match="has rows of one length"):
        loop.train(config)
    assert not (tmp_path / "run").exists()
    corpus = open_corpus(config.data, config.tokenizer)
    with pytest.raises(ValueError, match="has rows of one length"):
        step_rows(config, corpus, 0)
