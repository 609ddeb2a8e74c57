"""Continued training from the command line: new tokens, old rows, and what was kept."""

import json
import re

import numpy as np
import pytest

from lmjax.runs import open as open_run
from lmjax.tokenizers import TokenizerConfig, build_tokenizer
from lmjax.tokenizers.extend import extend_tokenizer

pytestmark = pytest.mark.run

TEXTS = ["hello world, def foo(self): return self.bar " * 40]


@pytest.fixture(scope="module")
def bpe():
    config = TokenizerConfig(kind="bpe", vocab_size=280, special_tokens=("<pad>", "<eos>", "<sep>"))
    return build_tokenizer(config, lambda: TEXTS)


def test_new_tokens_are_found_first_and_old_ids_stay(bpe):
    extended, pieces = extend_tokenizer(bpe, [" myocardial", "quux"])
    size = bpe.vocabulary.size
    assert list(pieces) == [size, size + 1]
    assert pieces[size] == bpe.encode(" myocardial").tolist()
    text = "a myocardial quux and <eos>, hello"
    ids = extended.encode(text)
    assert extended.decode(ids) == text
    assert size in ids and size + 1 in ids and bpe.vocabulary.eos_id not in ids
    plain = "hello world <sep> foo"
    np.testing.assert_array_equal(extended.encode(plain), bpe.encode(plain))
    assert extended.special_tokens == bpe.special_tokens and extended.vocabulary.eos_id == bpe.vocabulary.eos_id
    assert extended.vocabulary.byte_length_V[size] == len(" myocardial")
    again, further = extend_tokenizer(extended, ["zzyzx"])
    assert list(further) == [size + 2] and size in again.encode(" myocardial")


@pytest.mark.parametrize(
    ("words", "message"),
    [(["quux", "quux"], "'quux': name each once"), ([""], "'': empty"), (["h"], "'h': empty, or one token already")],
)
def test_words_that_are_no_new_tokens_are_refused(bpe, words, message):
    with pytest.raises(ValueError, match=message):
        extend_tokenizer(bpe, words)


def test_a_tokenizer_without_room_is_refused():
    with pytest.raises(ValueError, match="a bytes tokenizer has no place for new tokens"):
        extend_tokenizer(build_tokenizer(TokenizerConfig(kind="bytes"), lambda: ()), ["word"])


@pytest.fixture(scope="module")
def extended(lmjax, workspace, tmp_path_factory):
    """A run with a trained tokenizer, and what ``lmjax extend`` makes of it."""
    folder = tmp_path_factory.mktemp("continue")
    options = ("--tokenizer.kind", "bpe", "--tokenizer.vocab-size", 270, "--model.tie-embeddings", False)
    options += ("--model.head-bias", True, "--model.pad-vocab-to", 4, "--data.prepared", folder / "old")
    trained = lmjax("train", workspace / "tiny.py", "--folder", folder / "before", *options)
    assert trained.code == 0, trained.err
    (folder / "words.txt").write_text("gamma delta\n epsilon zeta\nbeta beta beta\n")
    result = lmjax("extend", folder / "before", folder / "extended", "--tokens", folder / "words.txt")
    assert result.code == 0, result.err
    return folder, result, options


@pytest.mark.long
def test_old_rows_are_kept_to_the_bit_and_new_ones_are_means(extended):
    folder, result, _ = extended
    before, after = open_run(folder / "before"), open_run(folder / "extended")
    assert before.config.model.vocab_size == 272 and after.config.model.vocab_size == 276
    assert "3 tokens added: 273 ids, tables of 272 -> 276 rows" in result.out
    pieces = before.tokenizer.encode("gamma delta")
    for name, axis in (("head_weight_DV", 1), ("head_bias_V", 0)):
        old, new = (np.moveaxis(np.asarray(run.params["model"][name]), axis, 0) for run in (before, after))
        np.testing.assert_array_equal(new[:270], old[:270])
        np.testing.assert_allclose(new[270], old[pieces].mean(axis=0), rtol=1e-6)
    old, new = (np.asarray(run.params["model"]["embedding"]["table_VD"]) for run in (before, after))
    np.testing.assert_array_equal(new[:270], old[:270])
    np.testing.assert_allclose(new[270], old[pieces].mean(axis=0), rtol=1e-6)
    assert not new[273:].any()


@pytest.mark.long
def test_training_goes_on_and_is_compared(extended, lmjax, workspace):
    folder, _, options = extended
    again = [*options, "--tokenizer.kind", None, "--tokenizer.vocab-size", None, "--data.prepared", folder / "new"]
    again += ["--tokenizer.path", folder / "extended" / "tokenizer", "--train.init-from", folder / "extended"]
    again += ["--model.vocab-size", 276, "--optimizer.learning-rate", 0.02]
    trained = lmjax("train", workspace / "tiny.py", "--folder", folder / "after", *again)
    assert trained.code == 0, trained.err
    assert f"beginning with the weights of {folder / 'extended'}" in trained.out
    text = workspace / "text" / "00.txt"
    result = lmjax("compare", folder / "before", folder / "after", "--texts", text)
    assert result.code == 0, result.err
    (one,) = json.loads(result.out.splitlines()[-1]).values()
    assert one["retained"] == pytest.approx(one["before"] / one["after"]) and one["retained"] > 1
    assert re.search(r"bits per byte", result.out)


def test_mistakes_of_the_command_are_named(extended, lmjax):
    folder, *_ = extended
    refused = lmjax("extend", folder / "before", folder / "extended", "--tokens", folder / "words.txt")
    assert refused.code == 2 and "exists and is not empty" in refused.message
    refused = lmjax("extend", folder / "before", folder / "other", "--tokens", folder / "none.txt")
    assert refused.code == 2 and "none.txt" in refused.message and not (folder / "other").exists()
    (folder / "known.txt").write_text("a\n")
    refused = lmjax("extend", folder / "before", folder / "other", "--tokens", folder / "known.txt")
    assert refused.code == 2 and "'a': empty, or one token already" in refused.message
