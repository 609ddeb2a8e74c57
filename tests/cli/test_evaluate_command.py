"""`lmjax evaluate`: what it measures by which option, what it prints, and what it refuses."""

import json
import re

import pytest
from untrained import untrained

from lmjax import runs
from lmjax.objectives import Contrastive, MaskedLM
from lmjax.train.evaluations import token_scores
from lmjax.train.evaluations.text_files import TextFiles


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(token_scores, "TOKENS_AT_ONCE", 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs of one tokenizer, one of another, an encoder and a dual encoder; and files to evaluate on."""
    folder = tmp_path_factory.mktemp("evaluate")
    untrained(add_bos=True, folder=folder / "one")
    untrained(add_bos=True, seed=1, folder=folder / "two")
    untrained(add_bos=True, named=("<new>",), folder=folder / "other")
    untrained(MaskedLM(), folder=folder / "encoder")
    untrained(Contrastive(), folder=folder / "dual")
    (folder / "a.txt").write_text("a text")
    (folder / "b.txt").write_text("another text, which is longer than the other one is")
    write(folder / "pairs.jsonl", [{"query": text, "key": text} for text in ("one", "two")])
    labelled = [{"text": f"{letter * 5} {n}", "label": letter} for n in range(10) for letter in "ab"]
    write(folder / "labelled.jsonl", labelled)
    write(folder / "references.jsonl", [{"prompt": "one", "reference": "the cat sat on the mat"}])
    return folder


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))


def numbers(result):
    assert result.code == 0, result.err
    return json.loads(result.out.splitlines()[-1])


def test_texts_are_measured_and_shown_by_file_and_by_place(lmjax, folder):
    result = lmjax("evaluate", folder / "one", "--on", folder / "a.txt", folder / "b.txt", "--window", 8, "--stride", 3)
    found = numbers(result)
    files = (str(folder / "a.txt"), str(folder / "b.txt"))
    expected = runs.open(folder / "one").evaluate(TextFiles(name="t", files=files, window=8, stride=3))
    assert found["step"] == 0
    for name, value in {**expected.numbers, **expected.counts}.items():
        assert found[f"text/{name}"] == pytest.approx(value, rel=1e-6)
    assert found["file"].keys() == set(files) and found["position"].keys() == {"0-15", "16-31", "32-63"}
    rows = [line.split() for line in result.out.splitlines()]
    assert ["file", "loss", "perplexity", "bits/byte", "accuracy", "tokens"] in rows
    assert {"a.txt", "b.txt", "0-15", "32-63"} <= {row[0] for row in rows if row}


def test_runs_are_compared_by_what_can_be_compared(lmjax, folder):
    on = ("--on", folder / "b.txt", "--window", 8)
    both = numbers(lmjax("evaluate", folder / "one", folder / "two", *on))
    one = numbers(lmjax("evaluate", folder / "one", *on))
    assert both[str(folder / "one")]["loss"] == pytest.approx(one["text/loss"])
    assert both[str(folder / "two")]["perplexity"] != both[str(folder / "one")]["perplexity"]
    refused = lmjax("evaluate", folder / "one", folder / "other", *on)
    assert refused.code == 2 and not refused.out
    for words in ("have different tokenizers", "perplexities cannot be compared", "--by bits_per_byte"):
        assert words in refused.message
    allowed = numbers(lmjax("evaluate", folder / "one", folder / "other", *on, "--by", "bits_per_byte"))
    assert allowed[str(folder / "one")]["bits_per_byte"] == pytest.approx(one["text/bits_per_byte"])
    assert all({"loss", "perplexity", "tokens"}.isdisjoint(own) for own in allowed.values())


def test_an_encoder_has_a_pseudo_perplexity_that_is_compared_with_no_perplexity(lmjax, folder):
    on = ("--on", folder / "a.txt")
    found = numbers(lmjax("evaluate", folder / "encoder", *on))
    assert found["text/tokens"] == 6 and "text/bits_per_byte" not in found and found["text/pseudo_perplexity"] > 1
    refused = lmjax("evaluate", folder / "encoder", folder / "one", *on)
    assert refused.code == 2 and "these numbers cannot be compared" in refused.message


def test_pairs_and_labels(lmjax, folder):
    found = numbers(lmjax("evaluate", folder / "dual", "--pairs", folder / "pairs.jsonl", "--ks", 1))
    assert found == {
        "step": 0, "pairs/recall_at_1": 1.0, "pairs/mean_reciprocal_rank": 1.0, "pairs/queries": 2, "pairs/texts": 2
    }  # fmt: skip
    labels = numbers(lmjax("evaluate", folder / "one", "--labelled", folder / "labelled.jsonl"))
    assert labels["probe/test_texts"] == 4 and labels["probe/labels"] == 2 and labels["probe/train_accuracy"] == 1.0


def test_texts_are_written_and_compared_with_references(lmjax, folder, tmp_path):
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    options = ("--references", folder / "references.jsonl", "--max-new-tokens", 6, "--output", tmp_path / "texts.jsonl")
    found = numbers(lmjax("evaluate", folder / "one", *options))
    assert found["references/prompts"] == 1 and 0 <= found["references/bleu"] <= 100
    (line,) = (tmp_path / "texts.jsonl").read_text().splitlines()
    assert json.loads(line)["reference"] == ["the cat sat on the mat"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name a run folder"),
        (("one", "--on", "a.txt", "--pairs", "pairs.jsonl"), "--on and --pairs: give one of them at a time"),
        (("one", "--window", 8), "--window goes with --on or --tasks"),
        (("one", "--on", "a.txt", "--num-fewshot", 2), "--num-fewshot goes with --tasks"),
        (("one", "--on", "a.txt", "--batches", 2), "--batches is of prepared data, not of --on"),
        (("one", "two"), "2 runs are compared on texts"),
        (("one", "--on", "a.txt", "--window", 0), "window=0: must be at least 1"),
        (("one", "--on", "a.txt", "--stride", 17), "stride=17 with window=16"),
        (("one", "--on", "a.txt", "--documents", -1), "documents=-1: must not be negative"),
        (("one", "--on", "a.txt", "--draws", 4), "draws=4 does not concern a model that reads from left to right"),
        (("one", "--on", "nothing.txt"), "nothing.txt"),
        (("encoder", "--on", "a.txt", "--stride", 3), "stride=3 does not concern an encoder"),
        (("dual", "--on", "a.txt"), "Contrastive does not train a model's output layer"),
        (("one", "--pairs", "pairs.jsonl"), "CausalLM does not train vectors of texts"),
        (("one", "--labelled", "pairs.jsonl"), "line 1 has 'query', 'key': each line must be as"),
        (("one", "--references", "pairs.jsonl"), "each line must be as|pip install"),
        (("one", "--labelled", "labelled.jsonl", "--test-share", 0), "test_share=0"),
        (
            ("one", "--tasks", "no_such"),
            "no task is called 'no_such'|--tasks needs lm-eval .*pip install 'lmjax.eval.'",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_message(lmjax, folder, monkeypatch, arguments, words):
    monkeypatch.chdir(folder)
    result = lmjax("evaluate", *arguments)
    assert result.code == 2 and not result.out
    assert result.err.count("error:") <= 1 and "Traceback" not in result.err

    assert re.search(words, result.message), result.message


def test_a_run_that_names_no_tokens_does_not_write(lmjax, folder):
    result = lmjax("sample", folder / "dual", "--prompt", "a")
    assert result.code == 2 and not result.out and "does not train a model's output layer" in result.message
