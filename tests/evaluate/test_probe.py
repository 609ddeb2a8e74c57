"""The linear probe: its features, its optimum, and what it reads off states that tell the label."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from untrained import untrained

from lmjax.evaluate.probe import Probe, fit, probe, text_features
from lmjax.types import make_stream


@pytest.fixture(scope="module")
def run():
    return untrained(add_bos=True)


def write(path, rows):
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows))
    return path


def test_the_weights_are_where_the_gradient_is_zero():
    rng = np.random.default_rng(0)
    feature_ND, label_N = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(3, size=40)
    weights = fit(feature_ND, label_N, num_labels=3, penalty=0.01)
    logits_NH = feature_ND @ weights["matrix_DH"] + weights["bias_H"]
    chances_NH = np.exp(logits_NH - np.logaddexp.reduce(logits_NH, axis=1, keepdims=True))
    error_NH = (chances_NH - np.eye(3)[label_N]) / len(label_N)
    gradient_DH = feature_ND.T @ error_NH + 0.01 * weights["matrix_DH"]
    assert np.abs(gradient_DH).max() < 1e-4 and np.abs(error_NH.sum(axis=0)).max() < 1e-4
    assert np.abs(weights["matrix_DH"]).max() > 0.05


def test_features_are_means_of_hidden_states_and_tell_what_the_text_is(run, tmp_path):
    texts = ["aaa", "b", "a longer text"]
    features = text_features(run, texts, batch_size=2)
    model = run.spec.bind(run.params)
    for text, feature in zip(texts, features, strict=True):
        ids = jnp.array([[run.tokenizer.vocabulary.bos_id, *text.encode()]])
        states = model(make_stream(ids, None, "causal")).states_BTD[0]
        np.testing.assert_allclose(feature, np.asarray(states).mean(axis=0), rtol=1e-4, atol=1e-5)
    rows = [(f"{'xyz'[n % 3] * 3}{n:02d}", n % 3) for n in range(30)]
    path = write(tmp_path / "labels.jsonl", rows)
    reading = probe(run, Probe(path=path, batch_size=30))
    assert reading.counts == {"labels": 3, "train_texts": 24, "test_texts": 6}
    assert reading.numbers["accuracy"] == 1.0 and reading.numbers["majority"] < 0.7
    assert probe(run, Probe(path=path, batch_size=30)).numbers == reading.numbers


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([("a", 1), ("b", 1)], {}, "all labels are 1"),
        ([("a", 1), ("b", 2)], {}, "2 texts leave none for training or none for testing"),
        ([("a", 1.5)], {}, "line 1: 'label' is 1.5"),
        ([("", 1)], {}, "line 1: 'text' is \"\": must be some text"),
        ([("a", 1)], {"penalty": 0.0}, "penalty=0.0: must be above 0"),
    ],
)
def test_what_cannot_be_probed_is_refused(run, tmp_path, rows, options, words):
    with pytest.raises(ValueError, match=words):
        probe(run, Probe(path=write(tmp_path / "x.jsonl", rows), **options))
