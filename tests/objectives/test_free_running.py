"""What models say left to themselves: draws, continuations with the cache, and the pieces of text they begin from."""

import dataclasses
import math
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.models.head import Head
from lmjax.objectives.parts import model_samples as free_running
from lmjax.objectives.parts.model_samples import choose_windows, continue_prompts, predict_next, sampling_extras
from lmjax.types import Rows, make_stream

KEY = jax.random.key(0)


class FixedLogits:
    """Says the same distribution everywhere."""

    def __init__(self, logits_V):
        self.logits_V = jnp.asarray(logits_V, jnp.float32)
        self.config = types.SimpleNamespace(vocab_size=len(logits_V))

    def head(self):
        return Head(jnp.zeros((4, len(self.logits_V))), self.logits_V, None)

    def head_states(self, hidden):
        return hidden


jax.tree_util.register_pytree_node(FixedLogits, lambda m: ((m.logits_V,), None), lambda _, leaves: FixedLogits(*leaves))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_predictions_follow_the_distribution_and_are_ids_of_the_tokenizer(temperature):
    model = FixedLogits([2.0, 1.0, 0.0, -1.0, 9.0, 9.0])
    extras = sampling_extras(KEY, 256, dataclasses.replace(tiny.VOCABULARY, size=4))
    hidden = jnp.zeros((256, 48, 4))
    draws = np.asarray(jax.jit(lambda: predict_next(model, hidden, extras, temperature=temperature))())
    expected = np.exp(np.array([2.0, 1.0, 0.0, -1.0]) / temperature)
    expected /= expected.sum()
    shares = np.bincount(draws.ravel(), minlength=6) / draws.size
    assert shares[4:].sum() == 0
    assert (np.abs(shares[:4] - expected) < 3.5 * np.sqrt(expected * (1 - expected) / draws.size)).all()
    # Neither rows nor positions share their draws: two of them agree by chance only.
    by_chance = np.square(expected).sum()
    for others in (np.roll(draws, 1, axis=0), np.roll(draws, 1, axis=1)):
        assert (draws == others).mean() == pytest.approx(by_chance, abs=0.02)


def test_predictions_depend_on_neither_chunks_nor_the_other_rows(monkeypatch):
    model, hidden = FixedLogits(np.zeros(64)), jnp.zeros((8, 10, 4))
    extras = sampling_extras(KEY, 8, tiny.VOCABULARY)
    whole = predict_next(model, hidden, extras, temperature=1.0)
    part = predict_next(model, hidden[2:5], jax.tree.map(lambda leaf: leaf[2:5], extras), temperature=1.0)
    np.testing.assert_array_equal(whole[2:5], part)
    monkeypatch.setattr(free_running, "chunk_length", lambda num_rows, vocab_size: 4)
    np.testing.assert_array_equal(whole, predict_next(model, hidden, extras, temperature=1.0))
    program = jax.make_jaxpr(lambda hidden: predict_next(model, hidden, extras, temperature=1.0))(hidden)
    shapes = [tuple(map(int, shape.split(","))) for shape in re.findall(r"\d\[([\d,]+)\]", str(program))]
    assert max(math.prod(shape) for shape in shapes if 64 in shape) == 8 * 4 * 64


def test_one_pass_over_a_continuation_gives_the_states_it_was_drawn_from():
    """With the likeliest tokens: each is what the parallel pass says at the position before; the last layer scans."""
    spec = tiny.model_spec()
    params = tiny.random_params(spec, scale=0.5)
    prompts = tiny.random_rows(5, num_rows=3, packed=False).tokens_BT
    extras = sampling_extras(KEY, 3, tiny.VOCABULARY)

    @jax.jit
    def both(params):
        model = spec.bind(params)
        text = continue_prompts(model, prompts, extras, num_tokens=7, temperature=0.0)
        return text, model.logits(model(make_stream(text, None, "causal")).states_BTD)

    text, logits = both(params)
    assert text.shape == (3, 12)
    np.testing.assert_array_equal(text[:, :5], prompts)
    np.testing.assert_array_equal(text[:, 5:], jnp.argmax(logits, axis=-1)[:, 4:-1])
    assert len(np.unique(text[:, 5:])) > 3


def test_pieces_lie_in_one_document_and_are_learned_and_every_place_has_its_turn():
    segments = np.array([[1] * 6 + [2] * 9 + [0] * 3, [1] * 4 + [2] * 4 + [3] * 4 + [0] * 6], np.int32)
    weights = np.ones_like(segments, np.float32)
    weights[0, 0:5] = 0.0
    weights[0, 13] = 0.0
    tokens = np.arange(36).reshape(2, 18)
    rows = Rows(tokens_BT=jnp.asarray(tokens), segments_BT=jnp.asarray(segments), weights_BT=jnp.asarray(weights))
    draw = jax.jit(jax.vmap(lambda key: choose_windows(key, rows, prompt_length=2, num_tokens=3)))
    windows, found = map(np.asarray, draw(jax.random.split(KEY, 600)))
    # Places 6 .. 8: from 9 on the unlearned token 13 is among what follows; document 1 has place 0 and 1, unlearned.
    starts, counts = np.unique(windows[:, 0, 0], return_counts=True)
    assert starts.tolist() == [6, 7, 8]
    assert counts.min() > 150
    np.testing.assert_array_equal(windows[:, 0], windows[:, 0, :1] + np.arange(5))
    assert (found[:, 0] == 1).all()
    assert (found[:, 1] == 0).all()
    whole, (is_found,) = choose_windows(KEY, Rows(tokens_BT=rows.tokens_BT[:1]), prompt_length=10, num_tokens=8)
    np.testing.assert_array_equal(whole[0], tokens[0])
    assert is_found == 1
