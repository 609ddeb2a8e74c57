"""`lmjax sample` of a model with an encoder: special tokens in the prompt, start and end as trained."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
import tiny

from lmjax.cli import sample
from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.objectives import Denoising, SpanCorruption
from lmjax.runs import Run
from lmjax.tokenizers import TokenizerConfig, build_tokenizer
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.prompts import source_ids
from lmjax.train.setup import build_learner, resolve

pytestmark = pytest.mark.run

T5 = SpanCorruption(form="encoder_decoder")


def opened(objective, *, positions="rope", **data) -> Run:
    """A run that was not trained."""
    config = RunConfig(
        name="pair",
        objective=objective,
        model=ModelConfig(
            width=16,
            num_layers=1,
            encoder_layers=1,
            num_heads=2,
            feedforward_width=32,
            positions=positions,
            max_length=24,
        ),
        tokenizer=TokenizerConfig(kind="bytes", num_sentinels=4),
        data=DataConfig(**data),
        train=TrainConfig(sequence_length=16, batch_size=1),
    )
    tokenizer = build_tokenizer(config.tokenizer, lambda: ())
    config = resolve(config, tokenizer.vocabulary)
    learner = build_learner(config, tokenizer.vocabulary, devices=jax.devices()[:1])
    params = tiny.random_params(learner.spec, scale=1.0)
    # Its highest logit is then a special token's, and never the end of text's.
    silent = [*range(256), tokenizer.vocabulary.eos_id]
    embedding = params["model"]["embedding"]
    embedding["table_VD"] = embedding["table_VD"].at[jnp.array(silent)].set(0)
    return Run(pathlib.Path("pair"), config, tokenizer, learner, lambda: (params, 0))


@pytest.mark.parametrize(
    ("objective", "data", "expected"),
    [
        (T5, {}, ["a", "<extra_id_0>", "b", "<eos>"]),
        (T5, {"add_bos": True, "add_eos": False}, ["<bos>", "a", "<extra_id_0>", "b", "<eos>"]),
        (Denoising(), {"packing": "best_fit", "add_bos": True}, ["<bos>", "a", "<extra_id_0>", "b", "<eos>"]),
        (Denoising(), {}, ["a", "<extra_id_0>", "b"]),
    ],
)
def test_a_prompt_is_read_as_documents_were(objective, data, expected):
    run = opened(objective, **data)
    ids = [run.tokenizer.special_tokens.get(name, ord(name[0])) for name in expected]
    assert source_ids(run.config.data, run.tokenizer, "a<extra_id_0>b", objective) == ids


def test_the_command_shows_what_the_decoder_writes(monkeypatch, capsys):
    run = opened(T5, positions="learned")
    monkeypatch.setattr(sample.runs, "open", lambda folder, *, step: run)

    def written(prompt):
        sample.run(["run", "--prompt", prompt, "--temperature", "0", "--num-samples", "2"])
        first, second = capsys.readouterr().out.removeprefix("--- 1\n").split("--- 2\n")
        assert first == second and not first.startswith(prompt[0])
        return first

    text = written("a<extra_id_0> x")
    # As many tokens as the decoder has positions beside that of the start, whatever the prompt's length.
    known = run.tokenizer.special_tokens
    assert len(re.findall("|".join(known), text)) == 23
    assert written("a<extra_id_3><extra_id_2><extra_id_1>") != text
