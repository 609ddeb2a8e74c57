import dataclasses
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.losses import cross_entropy
from lmjax.losses.unlikelihood import repeated_ngrams
from lmjax.models.execution import ExecutionConfig
from lmjax.models.hidden import Hidden
from lmjax.objectives import SequenceUnlikelihoodLM, UnlikelihoodLM
from lmjax.objectives import unlikelihood as module
from lmjax.objectives.parts.model_samples import continue_prompts
from lmjax.types import Rows, make_stream

KEY = jax.random.key(0)


def array_shapes(jaxpr) -> list[tuple[int, ...]]:
    """Of every array in a program."""
    return [tuple(map(int, shape.split(","))) for shape in re.findall(r"\d\[([\d,]+)\]", str(jaxpr))]


def terms(objective, logits_BTV, batch):
    return objective.terms(tiny.FixedLogits(logits_BTV), batch, None).sums


def by_hand(rows: Rows, logits_BTV, window: int, given=None) -> tuple[float, float]:
    """Both sums, token by token, from the paper's definition; ``given`` is the corrupted row, if it counts."""
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
            candidates = [*(context - {row[t + 1]})]
            if given is not None and given[b, t + 1] != row[t + 1]:
                candidates.append(given[b, t + 1])
            unlikely -= sum(math.log(1 - math.exp(log_p[b, t, c])) for c in candidates)
    return likely, unlikely


@pytest.mark.parametrize(("window", "chunk"), [(None, 5), (3, 1), (3, 100)])
def test_both_terms_are_the_papers_sums_however_the_positions_are_cut(window, chunk, monkeypatch):
    monkeypatch.setattr(module, "chunk_length", lambda num_rows, vocab_size: chunk)
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


@pytest.mark.parametrize("candidates", ["given", "both"])
def test_given_candidates_are_the_wrong_tokens_of_the_corrupted_row(candidates):
    rows = tiny.random_rows(25, num_rows=4)
    logits_BTV = 2 * jax.random.normal(KEY, (4, 24, 64))
    objective = UnlikelihoodLM(candidates=candidates, corruption_rate=0.5)
    batch = objective.corrupt(KEY, rows, tiny.VOCABULARY)
    corrupted = np.concatenate([batch.extras["corrupted"], batch.extras["corrupted_targets"][:, -1:]], axis=1)
    wrong = corrupted != np.asarray(rows.tokens_BT)
    assert 0.4 < wrong[np.asarray(rows.segments_BT) > 0].mean() < 0.6
    expected = by_hand(rows, logits_BTV, 24 if candidates == "both" else 0, corrupted)
    found = terms(objective, logits_BTV, batch)
    np.testing.assert_allclose([found["loss"], found["unlikelihood"]], expected, rtol=1e-5)


class LogitsOfInputs(tiny.FixedLogits):
    """Says what depends on the token it reads, and on nothing else; hidden states are the logits."""

    def __init__(self, table_VV):
        super().__init__(table_VV[None])

    def __call__(self, stream, *, key=None):
        return Hidden(self.logits_BTV[0][stream.tokens_BT], None)


def test_margin_is_the_hinge_of_each_documents_mean():
    objective = UnlikelihoodLM(margin_weight=2.0, margin=0.3, corruption_rate=0.2)
    assert objective.coefficients()["margin"] == 2.0
    rows = tiny.random_rows(25, num_rows=4)
    model = LogitsOfInputs(2 * jax.random.normal(KEY, (64, 64)))
    batch = objective.corrupt(KEY, rows, tiny.VOCABULARY)
    true, wrong = np.asarray(rows.tokens_BT), np.asarray(batch.extras["corrupted"])
    wrong_targets, documents = np.asarray(batch.extras["corrupted_targets"]), np.asarray(rows.segments_BT)
    hinges, weights = [], np.zeros((4, 24))
    for b, document in itertools.product(range(4), (1, 2)):
        (inside,) = np.nonzero((documents[b, 1:] == document) & (documents[b, :-1] == document))
        if not (wrong_targets[b, inside] != true[b, inside + 1]).any():
            continue
        original = cross_entropy(model.logits_BTV[0][true[b, inside]], true[b, inside + 1])
        corrupted = cross_entropy(model.logits_BTV[0][wrong[b, inside]], wrong_targets[b, inside])
        hinges.append(max(0.0, 0.3 + float(original.mean() - corrupted.mean())))
        weights[b, np.argmax(documents[b] == document)] = 1
    assert len(hinges) == 4
    assert 0 < np.count_nonzero(hinges) < len(hinges)
    np.testing.assert_array_equal(batch.weights["margin"], weights)
    found = jax.jit(lambda: objective.terms(model, batch, None).sums)()
    np.testing.assert_allclose(found["margin"], sum(hinges), rtol=1e-4)
    # The training step scales weights; the mean over a document's tokens does not.
    scaled = dataclasses.replace(batch, weights={name: w / jnp.sum(w) for name, w in batch.weights.items()})
    np.testing.assert_allclose(objective.terms(model, scaled, None).sums["margin"], np.mean(hinges), rtol=1e-4)


def test_without_a_weight_the_margin_costs_nothing():
    batch = UnlikelihoodLM().corrupt(KEY, tiny.random_rows(9), tiny.VOCABULARY)
    assert set(batch.weights) == {"loss", "unlikelihood"}
    assert not batch.extras


def test_sequence_term_is_the_unlikelihood_of_repetition_in_the_models_own_text(monkeypatch):
    monkeypatch.setattr("lmjax.objectives.sequence_unlikelihood.chunk_length", lambda num_rows, vocab_size: 7)
    objective = SequenceUnlikelihoodLM(prompt_length=2, free_tokens=12, ngram=2, sequence_weight=0.5)
    assert objective.coefficients() == {"unlikelihood": 1.0, "margin": 0.0, "sequence": 0.5}
    spec = tiny.model_spec(
        dataclasses.replace(tiny.MODEL, num_layers=1, execution=ExecutionConfig(scan_layers=False, remat="none"))
    )
    params = tiny.random_params(spec, scale=0.5)
    batch = objective.corrupt(KEY, tiny.random_rows(17), tiny.VOCABULARY)
    has_piece = np.asarray(batch.weights["sequence"])
    assert (has_piece == 0).all()
    batch = objective.corrupt(KEY, tiny.random_rows(17, packed=False), tiny.VOCABULARY)

    @jax.jit
    def both(params):
        model = spec.bind(params)
        text = continue_prompts(model, batch.extras["prompt"], batch.extras, num_tokens=12, temperature=0.0)
        log_p = jax.nn.log_softmax(model.logits(model(make_stream(text, None, "causal")).states_BTD))
        return objective.terms(model, batch, None).sums, text, log_p

    found, text, log_p = map(jax.device_get, both(params))
    repeats = np.asarray(repeated_ngrams(text[:, 2:], 2))
    assert repeats.any()
    expected = -sum(
        math.log1p(-math.exp(log_p[b, t + 1, text[b, t + 2]])) for b, t in zip(*np.nonzero(repeats), strict=True)
    )
    np.testing.assert_allclose(found["sequence"], expected / 12, rtol=1e-3)


def test_candidates_of_unpacked_rows_are_the_distinct_tokens_so_far_but_the_target():
    batch = UnlikelihoodLM().corrupt(KEY, Rows(tokens_BT=jnp.array([[5, 6, 5, 7, 6]])), tiny.VOCABULARY)
    candidates = UnlikelihoodLM().negative_candidates(batch)[0]
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
    monkeypatch.setattr(module, "chunk_length", lambda num_rows, vocab_size: 4)
    batch = UnlikelihoodLM(window=5).corrupt(KEY, tiny.random_rows(33), tiny.VOCABULARY)
    spec = tiny.model_spec()

    def total(params):
        return sum(UnlikelihoodLM(window=5).terms(spec.bind(params), batch, None).sums.values())

    shapes = array_shapes(jax.make_jaxpr(jax.grad(total))(spec.shapes))
    with_vocabulary = [shape for shape in shapes if 64 in shape and 8 in shape]
    assert (8, 4, 64) in with_vocabulary
    assert max(math.prod(shape) for shape in with_vocabulary) == 8 * 4 * 64


def test_alpha_is_the_coefficient_of_the_second_term_only():
    assert UnlikelihoodLM(alpha=0.25).coefficients() == {"unlikelihood": 0.25, "margin": 0.0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": -1.0}, "objective.alpha=-1.0"),
        ({"window": 0}, "objective.window=0: must be at least 1, or None"),
        ({"window": 4, "candidates": "given"}, "objective.window=4: given candidates are not looked for"),
        ({"candidates": "none"}, "objective.candidates='none': use one of context, given, both"),
        ({"margin_weight": -1.0}, "objective.margin_weight=-1.0"),
        ({"margin": -1.0}, "objective.margin=-1.0"),
        ({"corruption_rate": 0.0}, "objective.corruption_rate=0.0"),
    ],
)
def test_impossible_hyperparameters_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        UnlikelihoodLM(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ngram": 100}, "objective.ngram=100: must be at least 1 and below objective.free_tokens=100"),
        ({"sequence_weight": -1.0}, "objective.sequence_weight=-1.0"),
        ({"prompt_length": 0}, "objective.prompt_length=0"),
    ],
)
def test_impossible_sequences_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        SequenceUnlikelihoodLM(**options)


def test_pieces_longer_than_rows_and_bare_tokenizers_are_refused():
    with pytest.raises(ValueError, match="objective.free_tokens=100 make more than train.sequence_length=128"):
        SequenceUnlikelihoodLM().check(model=tiny.MODEL, vocabulary=tiny.VOCABULARY, sequence_length=128)
    bare = dataclasses.replace(tiny.VOCABULARY, size=5, pad_id=1, bos_id=2, eos_id=3, mask_id=4)
    with pytest.raises(ValueError, match="objective.candidates='given' with a tokenizer of 5 ids"):
        UnlikelihoodLM(candidates="given").check(model=tiny.MODEL, vocabulary=bare, sequence_length=8)
