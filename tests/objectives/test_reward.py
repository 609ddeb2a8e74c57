"""Bradley-Terry against scores of answers read one by one."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import module_spec
from lmjax.objectives import CausalLM, PairwiseReward
from lmjax.train.initial import adopted_params
from lmjax.types import make_stream

KEY = jax.random.key(0)
MODEL = dataclasses.replace(tiny.MODEL, num_layers=1, execution=ExecutionConfig(scan_layers=False, remat="none"))
OBJECTIVE = PairwiseReward(margin=0.5)


@functools.cache
def spec():
    return module_spec(lambda key: OBJECTIVE.build(MODEL, rngs=nnx.Rngs(params=key)))


def test_terms_by_hand():
    rows = tiny.example_rows(2, 8, num_rows=5)
    rows = dataclasses.replace(rows, segments_BT=rows.segments_BT.at[4].set(0))
    params = tiny.random_params(spec())
    both = list(zip(*map(np.asarray, (rows.tokens_BT, rows.segments_BT)), strict=True))[:4]
    texts = [tokens[there == number] for tokens, there in both for number in (1, 2)]
    alone = tiny.one_text_a_row(texts, 8)
    hidden = np.asarray(
        jax.jit(
            lambda: spec().bind(params).model(make_stream(alone.tokens_BT, alone.segments_BT, "causal")).states_BTD
        )()
    )
    last = np.stack([states[len(text) - 1] for states, text in zip(hidden, texts, strict=True)])
    rewards = (last @ np.asarray(params["extras"]["score"]["weight"])[:, 0]).reshape(4, 2)
    difference = np.subtract(*rewards.T)

    def terms(rows):
        batch = OBJECTIVE.corrupt(KEY, rows, tiny.VOCABULARY)
        return batch, OBJECTIVE.terms(spec().bind(params), batch, None).sums

    batch, found = jax.jit(terms)(rows)
    jax.tree.map(np.testing.assert_array_equal, batch, OBJECTIVE.corrupt(KEY, rows, tiny.VOCABULARY))
    # The last row only fills the batch.
    assert batch.weights["preference"].tolist() == [1, 1, 1, 1, 0]
    assert float(found["preference"]) == pytest.approx(np.log1p(np.exp(0.5 - difference)).sum(), rel=1e-5)
    assert float(found["margin"]) == pytest.approx(difference.sum(), rel=1e-4)
    assert float(found["accuracy"]) == (difference > 0).sum()
    assert float(OBJECTIVE.total(found)) == float(found["preference"])
    assert OBJECTIVE.for_evaluation().margin == 0


def test_another_runs_model_gets_a_new_score():
    saved, fresh = tiny.random_params(tiny.model_spec(MODEL)), tiny.random_params(spec(), seed=1)
    params = adopted_params(OBJECTIVE, fresh, {"model": saved}, source=CausalLM())
    assert params == {"model": saved, "extras": {"score": fresh["extras"]["score"]}}


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match="objective.margin=-1.0: must not be negative"):
        PairwiseReward(margin=-1.0)
