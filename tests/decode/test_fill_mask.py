"""The most likely tokens at masks, against a forward pass over each text alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from lmjax.decode.fill_mask import fill_mask
from lmjax.types import make_stream

MASK = tiny.VOCABULARY.mask_id


def test_candidates_are_those_of_the_softmax_and_padding_changes_nothing():
    spec = tiny.model_spec()
    params = tiny.random_params(spec)
    texts = [[5, MASK, 7], [MASK, 1, 2, 3, MASK, 9, 11]]
    found = fill_mask(spec, params, texts, vocabulary=tiny.VOCABULARY, top=4)
    assert [len(masks) for masks in found] == [1, 2]
    for text, of_text in zip(texts, found, strict=True):
        model = spec.bind(params)
        states = model(make_stream(jnp.array([text]), None, "bidirectional")).states_BTD[0]
        probability = np.asarray(jax.nn.softmax(model.logits(states), axis=-1))
        for place, candidates in zip(np.flatnonzero(np.array(text) == MASK), of_text, strict=True):
            ids = [token_id for token_id, _ in candidates]
            assert ids == np.argsort(-probability[place])[:4].tolist()
            np.testing.assert_allclose([p for _, p in candidates], probability[place][ids], rtol=1e-4)


def test_ids_that_no_tokenizer_has_are_not_named():
    spec = tiny.model_spec()
    few = tiny.VOCABULARY.__class__(size=4, mask_id=3, byte_length_V=np.ones(4, np.int32))
    [[candidates]] = fill_mask(spec, tiny.random_params(spec), [[1, 3]], vocabulary=few, top=10)
    assert sorted(token_id for token_id, _ in candidates) == [0, 1, 2, 3]
    assert sum(p for _, p in candidates) == pytest.approx(1.0, abs=1e-5)
