"""Runs of small models that were not trained, in memory or in a folder."""

import dataclasses
import pathlib

import tiny

from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.objectives import CausalLM, Objective
from lmjax.runs import Run
from lmjax.runs.new_run import make_run
from lmjax.runs.opened import make_learner
from lmjax.tokenizers import TokenizerConfig, build_tokenizer
from lmjax.train.config import RunConfig, TrainConfig
from lmjax.train.setup import resolve

MODEL = ModelConfig(width=16, num_layers=1, num_heads=2, feedforward_width=32, max_length=64)


def untrained(
    objective: Objective | None = None,
    *,
    model: ModelConfig = MODEL,
    named: tuple[str, ...] = (),
    seed: int = 0,
    folder: pathlib.Path | None = None,
    special_tokens: tuple[str, ...] = TokenizerConfig.special_tokens,
    **data,
) -> Run:
    """A run of bytes with random parameters; in ``folder``, if one is given."""
    config = RunConfig(
        name="untrained",
        objective=objective or CausalLM(),
        model=model,
        tokenizer=TokenizerConfig(kind="bytes", named=named, num_sentinels=4, special_tokens=special_tokens),
        data=DataConfig(**data),
        train=TrainConfig(sequence_length=min(16, model.max_length), batch_size=2),
    )
    tokenizer = build_tokenizer(config.tokenizer, lambda: ())
    config, learner = make_learner(resolve(config, tokenizer.vocabulary), tokenizer)
    params = tiny.random_params(learner.spec, seed=seed)
    if folder is not None:
        make_run(folder, dataclasses.replace(config, folder=str(folder)), tokenizer, params)
    return Run(folder or pathlib.Path("untrained"), config, tokenizer, learner, lambda: (params, 0))
