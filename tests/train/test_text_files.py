"""Perplexity by a sliding window: each token once, the numbers of a full pass, and of parts."""

import dataclasses
import functools
import json
import math

import jax
import numpy as np
import pytest
from untrained import MODEL, untrained

from lmjax.data.config import DataConfig, Source
from lmjax.objectives import Contrastive, MaskedLM, PairwiseReward
from lmjax.parallel.mesh import MeshConfig
from lmjax.tokenizers.byte import ByteTokenizer
from lmjax.train.evaluations.calibration import Reliability
from lmjax.train.evaluations.sums import bucket_name, buckets
from lmjax.train.evaluations.text_files import TextFiles
from lmjax.train.evaluations.texts import data_of
from lmjax.train.evaluations.token_scores import TokenScorer
from lmjax.train.evaluations.windows import packed, windows
from lmjax.train.plan import subject_of
from lmjax.train.scored import NothingScored
from lmjax.train.setup import build_learner
from lmjax.types import IGNORE_INDEX

TEXTS = {"a.txt": "a short text", "b.txt": "another, which is as long as é and ü make it", "c.txt": "x"}


@pytest.fixture(scope="module")
def run():
    return untrained(add_eos=False, add_bos=True)


@pytest.fixture
def files(tmp_path):
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    return str(tmp_path)


@pytest.mark.parametrize("prefix", [7, None])
@pytest.mark.parametrize(("length", "window", "stride"), [(1, 4, 4), (4, 4, 2), (11, 4, 4), (11, 4, 1), (12, 5, 2)])
def test_windows_score_each_token_once_after_as_many_others_as_promised(prefix, length, window, stride):
    tokens = np.arange(100, 100 + length)
    found = list(windows(tokens, prefix=prefix, window=window, stride=stride))
    before = [100 - 1 if prefix is None else prefix, *tokens]
    scored = []
    for number, one in enumerate(found):
        assert len(one.inputs_N) == len(one.targets_N) <= window
        for i in one.scored:
            place = one.first + i
            scored.append(place)
            assert one.targets_N[i] == tokens[place]
            # What is read before the token is the text before it, without a gap.
            assert one.inputs_N[: i + 1].tolist() == before[place - i : place + 1]
            assert number == 0 or i + 1 > window - stride
        assert one.places.tolist() == scored[-len(one.places) :]
    assert scored == list(range(0 if prefix is not None else 1, length))
    assert len(found) == (0 if not scored else 1 + math.ceil(max(len(scored) - window, 0) / stride))


def test_a_window_without_a_scored_token_is_left_out_and_packing_keeps_windows_apart():
    is_scored = np.arange(10) >= 6
    found = list(windows(np.arange(10), prefix=99, window=3, stride=3, scored_N=is_scored))
    assert [one.places.tolist() for one in found] == [[6, 7, 8], [9]]
    sizes = [3, 2, 2, 4, 1]
    many = [next(windows(np.full(n, n), prefix=0, window=4, stride=4)) for n in sizes]
    first, second = packed(many, num_rows=2, width=5)
    assert [(row, begin) for _, row, begin in first.places] == [(0, 0), (0, 3), (1, 0)]
    assert [(row, begin) for _, row, begin in second.places] == [(0, 0), (0, 4)]
    assert first.segments_BT.tolist() == [[1, 1, 1, 2, 2], [1, 1, 0, 0, 0]]
    assert first.targets_BT[1].tolist() == [2, 2, *[IGNORE_INDEX] * 3]
    assert second.inputs_BT.tolist() == [[0, 4, 4, 4, 0], [0] * 5]


def test_a_full_window_gives_the_numbers_of_one_pass_over_each_text(run, files):
    reading = run.evaluate(TextFiles(name="t", files=(files,), window=64, stride=7, batch_size=2))
    scores = run.score(list(TEXTS.values()))
    nats = -sum(score.log_probability for score in scores)
    num_bytes = sum(len(text.encode()) for text in TEXTS.values())
    numbers = reading.numbers
    assert numbers["loss"] == pytest.approx(nats / num_bytes, rel=1e-5)
    assert numbers["perplexity"] == pytest.approx(math.exp(nats / num_bytes), rel=1e-5)
    assert numbers["bits_per_byte"] == pytest.approx(nats / num_bytes / math.log(2), rel=1e-5)
    num_characters = sum(map(len, TEXTS.values()))
    assert numbers["bits_per_character"] == pytest.approx(nats / num_characters / math.log(2), rel=1e-5)
    assert reading.counts == {"texts": 3, "tokens": num_bytes, "bytes": num_bytes, "characters": num_characters}
    by_file = {name.rpartition("/")[2]: numbers for name, numbers in reading.tables["file"].items()}
    for name, score in zip(TEXTS, scores, strict=True):
        assert by_file[name]["loss"] == pytest.approx(score.loss, rel=1e-5)
    by_place = reading.tables["position"]
    assert list(by_place) == ["0-15", "16-31", "32-63"]
    assert sum(part["tokens"] for part in by_place.values()) == num_bytes
    late = scores[1].log_probabilities[32:]
    assert by_place["32-63"]["loss"] == pytest.approx(-late.mean(), rel=1e-5)


def test_a_sliding_window_scores_each_token_after_the_text_that_its_window_holds(run, files):
    window, stride = 16, 5
    reading = run.evaluate(TextFiles(name="t", files=(files,), window=window, stride=stride, batch_size=2))
    bos = run.tokenizer.vocabulary.bos_id
    scorer = TokenScorer(run.learner, width=window, batch_size=2)
    nats = first = 0.0
    for text in TEXTS.values():
        ids = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        for place in range(len(ids)):
            # Which window scores the token, by the definition; then that token alone, from the text before it.
            end = min(window, len(ids))
            while end <= place:
                end = min(end + stride, len(ids))
            inputs = np.concatenate([[bos], ids])[max(end - window, 0) : place + 1]
            one = next(windows(np.append(inputs[1:], ids[place]), prefix=int(inputs[0]), window=window, stride=1))
            ((_, scores),) = scorer(run.params, [one])
            nats -= float(scores.log_probability_N[-1])
            first += scores.rank_N[-1] == 0
    total = reading.counts["tokens"]
    assert reading.numbers["loss"] == pytest.approx(nats / total, rel=1e-5)
    assert reading.numbers["accuracy"] == pytest.approx(first / total)


def with_data(run, *, tokenizer=None, **changes):
    """The same model with other data, so that nothing is compiled again."""
    config = dataclasses.replace(run.config, data=dataclasses.replace(run.config.data, **changes))
    return dataclasses.replace(run, config=config, tokenizer=tokenizer or run.tokenizer)


def test_prompts_are_read_and_not_scored_and_documents_can_be_limited(run, tmp_path):
    path = tmp_path / "pairs.jsonl"
    lines = [{"prompt": "12345", "text": "abcde"}, {"prompt": "", "text": "xyz"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    run = with_data(run, prompt_field="prompt")
    texts = TextFiles(name="t", files=(str(path),), batch_size=2)
    whole = run.evaluate(texts)
    (score,) = run.score(["12345abcde"])
    (other,) = run.score(["xyz"])
    nats = -score.log_probabilities[5:].sum() - other.log_probability
    assert whole.counts["tokens"] == whole.counts["bytes"] == 8
    assert whole.numbers["loss"] == pytest.approx(nats / 8, rel=1e-5)
    first = run.evaluate(dataclasses.replace(texts, documents=1))
    assert first.counts["texts"] == 1 and first.counts["tokens"] == 5


def test_what_stands_before_the_first_token_is_said(run, files):
    texts = TextFiles(name="t", files=(files,), batch_size=2)
    ends, begins = run.evaluate(dataclasses.replace(texts, prefix_token="eos")), run.evaluate(texts)
    assert ends.counts == begins.counts and ends.numbers["loss"] != begins.numbers["loss"] and not ends.notes
    bare = with_data(run, tokenizer=ByteTokenizer({"<eos>": 256}), add_bos=False)
    reading = bare.evaluate(texts)
    num_bytes = sum(len(text.encode()) - 1 for text in TEXTS.values())
    assert reading.counts["tokens"] == reading.counts["bytes"] == num_bytes
    assert "first token of each text is not scored" in reading.notes[0]
    assert reading.counts["characters"] == num_bytes - 2


def test_calibration_error_of_three_bins_by_hand():
    bins = Reliability.empty(5)
    bins.add(np.array([0.9, 0.95, 0.85]), np.array([True, True, False]))
    bins.add(np.array([0.55, 0.6, 0.1]), np.array([False, True, False]))
    # Three of mean 0.9 and right 2/3; two of 0.575, right 1/2; one of 0.1, wrong. 0.6 is in the bin (0.4, 0.6].
    expected = (3 * abs(2 / 3 - 0.9) + 2 * abs(0.5 - 0.575) + 0.1) / 6
    assert bins.error == pytest.approx(expected) and bins.counts_M.tolist() == [1, 0, 2, 0, 3]


def test_buckets_double():
    assert buckets(np.array([0, 15, 16, 31, 32, 63, 64, 1023, 1024])).tolist() == [0, 0, 1, 1, 2, 2, 3, 6, 7]
    assert [bucket_name(n) for n in (0, 1, 2, 7)] == ["0-15", "16-31", "32-63", "1024-2047"]


@functools.cache
def with_learned_positions(objective):
    pair = {"members": ("a", "b"), "packing": "examples"} if isinstance(objective, PairwiseReward) else {}
    return untrained(objective, model=dataclasses.replace(MODEL, positions="learned"), **pair)


@pytest.mark.parametrize(
    ("objective", "changes", "words"),
    [
        (None, {"window": 0}, "t: window=0: must be at least 1"),
        (None, {"window": 4, "stride": 5}, "stride=5 with window=4"),
        (None, {"window": 65}, "window=65: the model has learned 64 positions"),
        (None, {"documents": -1}, "documents=-1"),
        (None, {"files": ()}, "files: name one"),
        (None, {"files": ("nowhere/*.txt",)}, "nowhere"),
        (None, {"prefix_token": "<nope>"}, "prefix_token needs a '<nope>' token"),
        (MaskedLM(), {}, "MaskedLM does not read from left to right"),
        (PairwiseReward(), {}, "PairwiseReward does not train a model's output layer.*scores whole answers"),
        (Contrastive(causal=True), {}, "Contrastive does not train.*lmjax embed"),
    ],
)
def test_what_cannot_be_measured_is_refused(objective, changes, words, files):
    with pytest.raises(ValueError, match=words):
        with_learned_positions(objective).evaluate(TextFiles(**{"name": "t", "files": (files,)} | changes))


def test_files_without_a_token_to_score_are_refused(run, tmp_path):
    (tmp_path / "x.txt").write_text("x")
    bare = with_data(run, tokenizer=ByteTokenizer({"<eos>": 256}), add_bos=False)
    with pytest.raises(NothingScored, match="no token to score"):
        bare.evaluate(TextFiles(name="t", files=(str(tmp_path / "x.txt"),)))


def test_a_run_of_several_sources_reads_a_single_file(files):
    sources = {"one": Source(path=files), "two": Source(path=files)}
    found = data_of(DataConfig(sources=sources, weights={"one": 3.0}), files)
    assert (found.path, found.sources, found.weights) == (files, {}, {})


def test_eight_devices_find_what_one_does(run, files):
    train = dataclasses.replace(run.config.train, batch_size=4)
    config = dataclasses.replace(run.config, train=train, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    learner = build_learner(config, run.tokenizer.vocabulary)
    params = jax.device_put(run.params, learner.state_shardings.params)
    texts = TextFiles(name="t", files=(files,), batch_size=4)
    many = texts.begin(subject_of(config, learner, run.tokenizer))(params, lambda: None)
    one = run.evaluate(texts)
    assert many.counts == one.counts
    assert many.numbers == pytest.approx(one.numbers, rel=1e-5)
