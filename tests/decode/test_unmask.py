"""Iterative unmasking: what is written, in which order, and from which distribution."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax.decode.logits import SamplingConfig
from lmjax.decode.unmask import unmask
from lmjax.models.head import Head
from lmjax.models.hidden import Hidden
from lmjax.models.parameters import module_spec
from lmjax.objectives import MaskedDiffusion
from lmjax.objectives.masked_diffusion import SCHEDULES

MASK, EOS = tiny.VOCABULARY.mask_id, tiny.VOCABULARY.eos_id


class Unigram(nnx.Module):
    """A model whose logits are a table of the position, whatever it reads."""

    config = tiny.MODEL

    def __init__(self, table_TV):
        self.table_TV = nnx.Param(table_TV, axes=("positions", "vocab"), kind="embedding")

    def __call__(self, stream, *, key=None):
        num_rows, length = stream.tokens_BT.shape
        return Hidden(jnp.broadcast_to(self.table_TV[...][None, :length], (num_rows, length, 64)), None)

    def head(self):
        return Head(jnp.eye(64), None, None)

    def head_states(self, hidden):
        return hidden


@functools.cache
def unigram():
    return module_spec(lambda key: Unigram(jnp.zeros((12, 64))))


def of(objective):
    """What sampling takes of an objective."""
    return {"hidden": objective.hidden, "schedule": SCHEDULES[objective.schedule]}


def run(table, prompts, **options):
    defaults = {"length": 12, "num_steps": 4, "sampling": SamplingConfig(), "vocabulary": tiny.VOCABULARY}
    return unmask(
        unigram(),
        {"table_TV": jnp.asarray(table, jnp.float32)},
        prompts,
        **of(MaskedDiffusion()),
        **defaults | options,
    )


@pytest.mark.parametrize("order", ["random", "confidence"])
def test_prompts_stay_and_no_mask_is_left(order):
    rows = run(np.zeros((12, 64)), [[5, 6], [7, MASK, 9]], order=order)
    assert rows[0][:2] == [5, 6]
    assert rows[1][0] == 7 and rows[1][2] == 9
    assert all(MASK not in row and len(row) == 12 for row in rows)


def test_tokens_follow_the_models_distribution_and_never_the_mask():
    table = np.full((12, 64), -1e9)
    table[:, 3], table[:, 4], table[:, MASK] = np.log(0.3), np.log(0.7), 50.0
    rows = np.array(run(table, [[]] * 400, num_steps=6))
    assert set(np.unique(rows)) == {3, 4}
    assert abs((rows == 4).mean() - 0.7) < 3 * np.sqrt(0.21 / rows.size)


def test_confidence_writes_the_surest_first_and_a_step_at_a_time():
    """A model that copies the number of visible tokens: what each position says tells when it was written."""

    class Counter(Unigram):
        def __call__(self, stream, *, key=None):
            hidden = super().__call__(stream).states_BTD
            visible = jnp.sum(stream.tokens_BT != MASK, axis=1)
            sharp = jnp.arange(stream.tokens_BT.shape[1]).astype(jnp.float32)[None, :, None] + 5.0
            return Hidden(hidden + sharp * jax.nn.one_hot(visible, 64)[:, None, :], None)

    spec = module_spec(lambda key: Counter(jnp.zeros((12, 64))))
    (row,) = unmask(
        spec,
        {"table_TV": jnp.zeros((12, 64))},
        [[]],
        **of(MaskedDiffusion()),
        vocabulary=tiny.VOCABULARY,
        length=12,
        num_steps=4,
        sampling=SamplingConfig(temperature=0),
        order="confidence",
    )
    assert row == [9, 9, 9, 6, 6, 6, 3, 3, 3, 0, 0, 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TellsTheNoise(MaskedDiffusion):
    """Every position says, in tenths, what share of the row it is told to be masked."""

    def hidden(self, model, stream, level_B, key):
        tenths_B = jnp.round(10 * level_B).astype(jnp.int32)
        return Hidden(jnp.broadcast_to(jax.nn.one_hot(tenths_B, 64)[:, None], (*stream.tokens_BT.shape, 64)), None)


@pytest.mark.parametrize("order", ["random", "confidence"])
def test_each_step_writes_its_share_at_its_noise(order):
    """Linear noise and five steps: a fifth of the row each, told 1, 0.8, 0.6, 0.4 and 0.2."""
    rows = unmask(
        unigram(),
        {"table_TV": jnp.zeros((12, 64))},
        [[]] * 300,
        **of(TellsTheNoise()),
        vocabulary=tiny.VOCABULARY,
        length=10,
        num_steps=5,
        sampling=SamplingConfig(temperature=0),
        order=order,
    )
    counts = np.bincount(np.ravel(rows), minlength=11)
    assert set(np.nonzero(counts)[0]) == {2, 4, 6, 8, 10}
    spread = 0 if order == "confidence" else 4 * np.sqrt(3000 * 0.2 * 0.8)
    assert np.abs(counts[[2, 4, 6, 8, 10]] - 600).max() <= spread


def test_rows_of_the_table_beyond_the_tokenizer_are_never_written():
    table = np.zeros((12, 64))
    table[:, 50:] = 50.0
    rows = run(table, [[]] * 4, vocabulary=dataclasses.replace(tiny.VOCABULARY, size=50, mask_id=49))
    assert np.max(rows) < 49


def test_a_trained_objective_is_sampled_with_its_own_module():
    objective = MaskedDiffusion(time_conditioning=True, schedule="cosine")
    built = tiny.learner(objective)
    rows = unmask(
        built.spec,
        built.init(0).params,
        [[1, 2, 3]],
        **of(objective),
        vocabulary=tiny.VOCABULARY,
        length=8,
        num_steps=3,
        sampling=SamplingConfig(),
    )
    assert rows[0][:3] == [1, 2, 3] and MASK not in rows[0] and max(rows[0]) < 64


@pytest.mark.parametrize(
    ("options", "words"),
    [({"num_steps": 0}, "num_steps=0"), ({"order": "left"}, "order='left'"), ({"length": 1}, "prompt has 2 tokens")],
)
def test_impossible_requests_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        run(np.zeros((12, 64)), [[1, 2]], **options)
