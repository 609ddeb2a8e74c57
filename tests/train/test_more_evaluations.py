"""Evaluations of encoders, diffusion models and dual encoders, each against its definition."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untrained import untrained

from lmjax.objectives import Contrastive, MaskedDiffusion, MaskedLM, ReplacedToken
from lmjax.runs import Run
from lmjax.train.evaluations import token_scores
from lmjax.train.evaluations.diffusion_bound import DiffusionBound
from lmjax.train.evaluations.pseudo_perplexity import PseudoPerplexity
from lmjax.train.evaluations.retrieval import Retrieval, ranks
from lmjax.types import make_stream

TEXTS = {"a.txt": "a text of 23 characters", "b.txt": "short é"}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(token_scores, "TOKENS_AT_ONCE", 128)


@pytest.fixture(scope="module")
def dual():
    return untrained(Contrastive(), add_eos=False)


@pytest.fixture
def files(tmp_path):
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    return str(tmp_path)


def test_pseudo_perplexity_masks_each_token_once_between_the_marks(files):
    run = untrained(MaskedLM(), add_bos=True, packing="best_fit")
    reading = run.evaluate(PseudoPerplexity(name="p", files=(files,), window=16))
    vocabulary = run.tokenizer.vocabulary
    model = run.spec.bind(run.params)
    masked, targets, by_file = [], [], []
    for number, text in enumerate(TEXTS.values()):
        for begin in range(0, len(text.encode()), 14):
            row = [vocabulary.bos_id, *text.encode()[begin : begin + 14], vocabulary.eos_id]
            for place in range(1, len(row) - 1):
                copy = [*row, *[0] * (16 - len(row))]
                targets.append((len(row), place, row[place]))
                copy[place] = vocabulary.mask_id
                masked.append(copy)
                by_file.append(number)
    length, place, target = map(np.array, zip(*targets, strict=True))
    segments = (np.arange(16) < length[:, None]).astype(np.int32)
    states = model(make_stream(jnp.asarray(masked), jnp.asarray(segments), "bidirectional")).states_BTD
    logits = np.asarray(model.logits(states[np.arange(len(place)), place]), np.float64)
    nats = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(place)), target]
    assert reading.counts == {"tokens": len(nats)} and len(nats) == 31
    assert reading.numbers["pseudo_loss"] == pytest.approx(nats.mean(), rel=1e-4)
    assert reading.numbers["pseudo_perplexity"] == pytest.approx(math.exp(nats.mean()), rel=1e-4)
    assert reading.numbers["accuracy"] == pytest.approx(np.mean(logits.argmax(axis=1) == target))
    of_second = list(reading.tables["file"].values())[1]
    assert of_second["pseudo_loss"] == pytest.approx(nats[np.array(by_file) == 1].mean(), rel=1e-4)


def test_the_bound_of_a_model_that_knows_nothing_is_that_of_equal_chances(files):
    run = untrained(MaskedDiffusion())
    blank = jax.tree.map(jnp.zeros_like, run.params)
    run = Run(run.folder, run.config, run.tokenizer, run.learner, lambda: (blank, 0))
    reading = run.evaluate(DiffusionBound(name="d", files=(files,), window=16, draws=16))
    numbers, vocab_size = reading.numbers, run.config.model.vocab_size
    assert reading.counts == {"tokens": 31, "bytes": 31, "characters": 30}
    assert 0 < numbers["standard_error"] < 1
    assert abs(numbers["loss"] - math.log(vocab_size - 1)) < 4 * numbers["standard_error"]
    assert numbers["bits_per_byte"] == pytest.approx(numbers["loss"] / math.log(2))
    parts = reading.tables["file"].values()
    assert sum(part["loss"] * part["tokens"] for part in parts) / 31 == pytest.approx(numbers["loss"])
    assert "upper bound" in reading.notes[0]


def test_ranks_by_hand_and_recall_of_texts_that_are_their_own_queries(tmp_path, dual):
    assert ranks(np.array([0.1, 0.9, 0.5, 0.9]), [1, 3, 0]).tolist() == [0, 1, 3]
    path = tmp_path / "pairs.jsonl"
    texts = ["one", "another text", "a third", "x"]
    path.write_text("\n".join(json.dumps({"query": text, "key": text}) for text in texts))
    found = dual.evaluate(Retrieval(name="r", pairs=str(path), ks=(1, 2))).numbers
    assert found == {"recall_at_1": 1.0, "recall_at_2": 1.0, "mean_reciprocal_rank": 1.0}
    # The first query has two texts: itself and the one that is farthest away.
    vectors = dual.embed(texts)
    order = np.argsort(-vectors @ vectors[0], kind="stable")
    far = texts[order[3]]
    pairs = [("one", "one"), ("one", far), *[(far, text) for text in texts if text == "a third"]]
    pairs += [(text, text) for text in texts]
    path.write_text("\n".join(json.dumps({"q": query, "t": key}) for query, key in pairs))
    reading = dual.evaluate(Retrieval(name="r", pairs=str(path), fields=("q", "t"), ks=(1, 4)))
    assert reading.counts == {"queries": 4, "texts": 4} and reading.numbers["recall_at_4"] == 1.0
    halves = 2 if far != "a third" else 1
    assert reading.numbers["recall_at_1"] == pytest.approx((4 - halves / 2) / 4)
    assert reading.numbers["mean_reciprocal_rank"] == 1.0


@pytest.mark.parametrize(
    ("objective", "evaluation", "words"),
    [
        (None, PseudoPerplexity, "CausalLM does not train an encoder"),
        (MaskedDiffusion(), PseudoPerplexity, "DiffusionBound"),
        (ReplacedToken(generator_ratio=0.5), PseudoPerplexity, "tells which tokens were replaced"),
        (MaskedLM(), DiffusionBound, "MaskedLM has no diffusion bound"),
        (MaskedLM(), Retrieval, "MaskedLM does not train vectors"),
    ],
)
def test_other_models_are_refused(objective, evaluation, words):
    options = {"pairs": "x"} if evaluation is Retrieval else {"files": ("x",)}
    with pytest.raises(ValueError, match=words):
        untrained(objective).evaluate(evaluation(name="e", **options))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no lines: write JSON lines, each as"),
        ("[1]", "line 1 is no object"),
        ('\n{"query": "a"}', "line 2 has 'query': each line must be as .*\"key\""),
        ('{"query": "a", "key": 3}', "line 1: 'key' is 3: must be some text"),
        ('{"query": "a", "key": "\\ud800"}', "line 1: 'key' has half a character"),
        ("{", "line 1 is not JSON"),
        (None, "No such file"),
    ],
)
def test_a_file_of_pairs_that_is_none(content, words, tmp_path, dual):
    path = tmp_path / "pairs.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=words):
        dual.evaluate(Retrieval(name="r", pairs=str(path)))
