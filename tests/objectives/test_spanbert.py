"""SpanBERT's boundary term: from which states, of which tokens, and what it adds to the model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from lmjax.losses import cross_entropy
from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import module_spec
from lmjax.objectives import SpanMaskedLM
from lmjax.objectives.spanbert import PLACES

STARTS = np.zeros(64, bool)
STARTS[:20] = True
STARTS[60:] = True
VOCABULARY = dataclasses.replace(tiny.VOCABULARY, word_start_V=STARTS)
OBJECTIVE = SpanMaskedLM(boundary_weight=1.0, mask_fraction=1.0, random_fraction=0.0, rate=0.3)


MODEL = dataclasses.replace(tiny.MODEL, num_layers=1, execution=ExecutionConfig(scan_layers=False, remat="none"))


def spec_of(objective):
    return module_spec(lambda key: objective.build(MODEL, rngs=nnx.Rngs(params=key)))


def batch_of(rows):
    return jax.jit(functools.partial(OBJECTIVE.corrupt, vocabulary=VOCABULARY))(jax.random.key(0), rows)


def same_span(hidden, segments, here, there):
    return 0 <= there < len(hidden) and hidden[there] and segments[there] == segments[here]


def test_a_token_of_a_span_is_asked_of_the_tokens_just_outside_of_it():
    """Against spans found in the masked rows by looking; those at a document's edge are left out."""
    rows = tiny.random_rows(128, num_rows=64)
    batch = batch_of(rows)
    hidden, segments = np.asarray(batch.inputs.tokens_BT) == VOCABULARY.mask_id, np.asarray(rows.segments_BT)
    asked = skipped = 0
    for row in range(64):
        weights = {name: np.asarray(values[row]) for name, values in batch.weights.items()}
        left, right, place = (np.asarray(batch.extras[name][row]) for name in ("left", "right", "place"))
        for slot in np.nonzero(weights["loss"])[0]:
            begin = end = int(batch.scored_BP[row, slot])
            same = functools.partial(same_span, hidden[row], segments[row])
            while same(begin, begin - 1):
                begin -= 1
            while same(end, end + 1):
                end += 1
            outside = [0 <= at < 128 and segments[row, at] == segments[row, begin] for at in (begin - 1, end + 1)]
            wanted = all(outside) and batch.scored_BP[row, slot] - begin < PLACES
            assert (weights["boundary"][slot] == weights["loss"][slot]) if wanted else weights["boundary"][slot] == 0
            asked, skipped = asked + wanted, skipped + (not all(outside))
            if wanted:
                assert (left[slot], right[slot]) == (begin - 1, end + 1)
                assert place[slot] == batch.scored_BP[row, slot] - begin
    assert asked > 500
    assert skipped > 50


def test_both_terms_are_the_cross_entropies_of_the_paper():
    spec = spec_of(OBJECTIVE)
    params = tiny.random_params(spec)
    batch = batch_of(tiny.random_rows(32, num_rows=4))

    def norm(x, part):
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * part["scale"].reshape(1, 1, -1) + part["bias"].reshape(1, 1, -1)

    @jax.jit
    def both(params):
        model, part = spec.bind(params), params["extras"]["boundary"]
        hidden = model.model(batch.inputs).states_BTD
        at = functools.partial(jnp.take_along_axis, hidden, axis=1)
        vectors = part["places"]["table_VD"][batch.extras["place"]]
        states = jnp.concatenate([*(at(batch.extras[side][..., None]) for side in ("left", "right")), vectors], axis=-1)
        for layer in ("first", "second"):
            projected = states @ part[layer]["weight"] + part[layer]["bias"].reshape(1, 1, -1)
            states = norm(projected * jax.scipy.stats.norm.cdf(projected), part[f"{layer}_norm"])
        expected = {}
        for name, asked in (("loss", at(batch.scored_BP[..., None])), ("boundary", states)):
            losses = cross_entropy(asked @ params["model"]["embedding"]["table_VD"].T, batch.targets_BP)
            expected[name] = jnp.sum(losses * batch.weights[name])
        return OBJECTIVE.terms(model, batch, None).sums, expected

    terms, expected = both(params)
    assert terms.keys() == expected.keys() == batch.weights.keys()
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), terms, expected)
    assert float(expected["boundary"]) > 0


def test_without_weight_there_is_no_term_and_no_layer():
    plain = dataclasses.replace(OBJECTIVE, boundary_weight=0.0)
    assert spec_of(plain).shapes.keys() == spec_of(OBJECTIVE).shapes["model"].keys()
    assert "boundary" in spec_of(OBJECTIVE).shapes["extras"]
    assert OBJECTIVE.coefficients() == {"boundary": 1.0}
    assert plain.coefficients() == {}
    with pytest.raises(ValueError, match=r"objective\.boundary_weight=-1\.0"):
        SpanMaskedLM(boundary_weight=-1.0)
