import math
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.models.transformer import Head
from lmjax.objectives import UnlikelihoodLM
from lmjax.objectives import unlikelihood as module
from lmjax.types import Rows

KEY = jax.random.key(0)


def array_shapes(jaxpr) -> list[tuple[int, ...]]:
    """Of every array in a program."""
    return [tuple(map(int, shape.split(","))) for shape in re.findall(r"\d\[([\d,]+)\]", str(jaxpr))]


class FixedLogits:
    """A model that says the same whatever it reads."""

    def __init__(self, logits_BTV):
        self.logits_BTV = logits_BTV
        self.config = types.SimpleNamespace(vocab_size=logits_BTV.shape[-1])

    def __call__(self, stream, *, key=None):
        return self.logits_BTV

    def head(self):
        return Head(jnp.eye(self.logits_BTV.shape[-1]), None, None)


def terms(objective, logits_BTV, batch):
    return objective.terms(FixedLogits(logits_BTV), batch, None)


def by_hand(rows: Rows, logits_BTV, window: int) -> tuple[float, float]:
    """Both sums, token by token, from the paper's definition."""
    log_p = np.asarray(jax.nn.log_softmax(logits_BTV), np.float64)
    tokens, segments = np.asarray(rows.tokens_BT), np.asarray(rows.segments_BT)
    likely = unlikely = 0.0
    for b, (row, documents) in enumerate(zip(tokens, segments, strict=True)):
        for t in range(len(row) - 1):
            if documents[t + 1] == 0 or documents[t] != documents[t + 1]:
                continue
            likely -= log_p[b, t, row[t + 1]]
            first = max(0, t + 1 - window)
            context = {row[s] for s in range(first, t + 1) if documents[s] == documents[t + 1]}
            unlikely -= sum(math.log(1 - math.exp(log_p[b, t, c])) for c in context - {row[t + 1]})
    return likely, unlikely


@pytest.mark.parametrize(("window", "chunk"), [(None, 5), (3, 1), (3, 100)])
def test_both_terms_are_the_papers_sums_however_the_positions_are_cut(window, chunk, monkeypatch):
    monkeypatch.setattr(module, "_chunk_length", lambda num_rows, vocab_size: chunk)
    rows = tiny.random_rows(25, num_rows=4)
    rows = Rows(tokens_BT=rows.tokens_BT % 7, segments_BT=rows.segments_BT)
    logits_BTV = 2 * jax.random.normal(KEY, (4, 24, 7))
    objective = UnlikelihoodLM(window=window)
    batch = objective.corrupt(KEY, rows, tiny.VOCABULARY)
    expected = by_hand(rows, logits_BTV, window or 24)
    assert expected[1] > 3
    found = jax.jit(lambda logits: terms(objective, logits, batch))(logits_BTV)
    np.testing.assert_allclose([found["loss"], found["unlikelihood"]], expected, rtol=1e-5)
    if chunk == 100:
        plain = terms(objective, logits_BTV, batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), plain, found)


def test_candidates_of_unpacked_rows_are_the_distinct_tokens_so_far_but_the_target():
    batch = UnlikelihoodLM().corrupt(KEY, Rows(tokens_BT=jnp.array([[5, 6, 5, 7, 6]])), tiny.VOCABULARY)
    candidates = UnlikelihoodLM().candidates(batch)[0]
    assert [sorted(c for c in row if c >= 0) for row in candidates.tolist()] == [[5], [6], [5, 6], [5, 7]]


def test_gradient_lowers_what_was_said_raises_the_target_and_looks_at_no_later_token():
    objective = UnlikelihoodLM()

    def gradient(tokens):
        batch = objective.corrupt(KEY, Rows(tokens_BT=jnp.array([tokens])), tiny.VOCABULARY)
        return jax.grad(lambda logits: sum(terms(objective, logits, batch).values()))(jnp.zeros((1, 4, 16)))[0]

    first, other = gradient([5, 6, 7, 8, 9]), gradient([5, 6, 7, 10, 11])
    assert (first[2, jnp.array([5, 6, 7])] > first[2, 4]).all()
    assert first[2, 8] < 0 < first[2, 4]
    np.testing.assert_array_equal(first[:2], other[:2])


def test_logits_of_all_positions_never_exist(monkeypatch):
    monkeypatch.setattr(module, "_chunk_length", lambda num_rows, vocab_size: 4)
    batch = UnlikelihoodLM(window=5).corrupt(KEY, tiny.random_rows(33), tiny.VOCABULARY)
    spec = tiny.model_spec()

    def total(params):
        return sum(UnlikelihoodLM(window=5).terms(spec.bind(params), batch, None).values())

    shapes = array_shapes(jax.make_jaxpr(jax.grad(total))(spec.shapes))
    with_vocabulary = [shape for shape in shapes if 64 in shape and 8 in shape]
    assert (8, 4, 64) in with_vocabulary
    assert max(math.prod(shape) for shape in with_vocabulary) == 8 * 4 * 64


def test_alpha_is_the_coefficient_of_the_second_term_only():
    assert UnlikelihoodLM(alpha=0.25).coefficients() == {"unlikelihood": 0.25}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": -1.0}, "objective.alpha=-1.0"),
        ({"window": 0}, "objective.window=0: must be at least 1, or None"),
    ],
)
def test_impossible_hyperparameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        UnlikelihoodLM(**options)
