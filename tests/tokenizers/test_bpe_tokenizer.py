"""Byte-level BPE: trained by one library, run by another, and the two must not differ by one id."""

import json

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from lmjax.tokenizers import TokenizerConfig, build_tokenizer
from lmjax.tokenizers.bpe import PATTERN, BytePairTokenizer, byte_alphabet


@pytest.fixture(scope="module")
def bpe(trained):
    return trained["bpe"]


def test_ids_are_those_of_the_tokenizers_library(bpe, strange_texts):
    reference = bpe.to_huggingface()
    reference.encode_special_tokens = True
    for text in strange_texts:
        assert bpe.encode(text).tolist() == reference.encode(text, add_special_tokens=False).ids, repr(text)
        assert reference.decode(bpe.encode(text).tolist()) == text
    assert {name: reference.token_to_id(name) for name in bpe.special_tokens} == bpe.special_tokens


def test_tokens_are_those_the_trainer_itself_would_use(bpe, corpus, strange_texts):
    reference = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    reference.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    size = bpe.vocabulary.size - len(bpe.special_tokens)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    reference.train_from_iterator(corpus, trainer)
    for text in strange_texts:
        expected = [bytes(byte_alphabet()[c] for c in token) for token in reference.encode(text).tokens]
        assert [bpe.token_bytes[token_id] for token_id in bpe.encode(text)] == expected


def test_ids_are_bytes_then_merges_in_order(bpe):
    assert bpe.token_bytes[:256] == [bytes([byte]) for byte in range(256)]
    assert bpe.token_bytes[256 : 256 + len(bpe.merges)] == [left + right for left, right in bpe.merges]
    assert byte_alphabet()["Ġ"] == 0x20 and byte_alphabet()["Ċ"] == 0x0A and byte_alphabet()["a"] == 0x61
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("I'm DON'T", ["I", "'m", " DON", "'T"]),
        ("x = 12345", ["x", " =", " ", "123", "45"]),
        ("if a:\n    b(c)", ["if", " a", ":\n", "   ", " b", "(c", ")"]),
        ("हिन्दी é e\u0301", ["हिन्दी", " é", " e\u0301"]),
        (" " * 300 + "x", [" " * 128, " " * 128, " " * 43, " x"]),
    ],
)
def test_pattern_cuts_as_documented(text, pieces):
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    assert [piece for piece, _ in split.pre_tokenize_str(text)] == pieces


@pytest.mark.parametrize("run", [" ", "\n", "\t", "\u3000", "a", "!", "1", " \n", "a "])
def test_a_run_of_a_million_characters_is_encoded(bpe, run):
    text = run * (1_000_000 // len(run))
    assert bpe.vocabulary.byte_length_V[bpe.encode(text)].sum() == len(text.encode())


def test_other_programs_read_the_saved_file(bpe, tmp_path):
    bpe.save(tmp_path)
    loaded = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert loaded.encode("def f(x): return x").ids == bpe.encode("def f(x): return x").tolist()
    assert loaded.encode("<eos>").ids == [bpe.vocabulary.eos_id]


def test_vocabulary_larger_than_the_text_allows_is_refused():
    config = TokenizerConfig(kind="bpe", vocab_size=300)
    with pytest.raises(ValueError, match=r"vocab_size=300: the training text has pairs for 265 at most"):
        build_tokenizer(config, lambda: ["abcd"])
    assert build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=265), lambda: ["abcd"]).encode("abcd").size == 1


def test_a_definition_that_is_not_ours_is_refused(bpe):
    definition = json.loads(bpe.files()["tokenizer.json"])
    definition["model"]["merges"][1], definition["model"]["merges"][0] = ["a", "b"], ["a", "b"]
    for broken in (json.dumps(definition).encode(), b"{}", b"not json", b'{"model": {"merges": 3}}'):
        with pytest.raises(ValueError, match=r"tokenizer\.json is not a byte-level BPE written by lmjax"):
            BytePairTokenizer.from_files({"tokenizer.json": broken}, {})
