"""Tokenizers given by ranks give the ids of the encoding they describe, shifted where special tokens come first."""

import base64
import json

import pytest
import tiktoken
import tiktoken_ext.openai_public as public

from lmjax.tokenizers import TokenizerConfig, build_tokenizer, load_tokenizer
from lmjax.tokenizers.bpe import PATTERN
from lmjax.tokenizers.ranks import PATTERNS


@pytest.fixture(scope="module")
def tokens(trained):
    """The tokens of a trained byte-pair encoding, by rank."""
    size = 256 + len(trained["bpe"].merges)
    return trained["bpe"].token_bytes[:size]


def rank_file(path, tokens):
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)))
    return path


def tekken_file(path, tokens, **changes):
    config = {"pattern": PATTERN, "default_vocab_size": 10 + len(tokens), "default_num_special_tokens": 10}
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for rank, token in enumerate([*tokens, b"never used"])
    ]
    special = [{"rank": 1, "token_str": "<s>"}, {"rank": 2, "token_str": "</s>"}, {"rank": 3, "token_str": "[INST]"}]
    path.write_text(json.dumps({"config": config | changes, "vocab": vocab, "special_tokens": special}))
    return path


def read(path, **options):
    return build_tokenizer(TokenizerConfig(path=str(path), **options), lambda: ())


def test_ids_are_those_of_the_encoding_they_describe(trained, tokens, strange_texts, tmp_path):
    plain = read(rank_file(tmp_path / "own.tiktoken", tokens), pattern=PATTERN, special_tokens=("<eos>", "<|user|>"))
    tekken = read(tekken_file(tmp_path / "tekken.json", tokens), special_tokens=("<eos>", "<pad>"))
    for text in strange_texts:
        expected = trained["bpe"].encode(text)
        assert plain.encode(text).tolist() == expected.tolist()
        assert tekken.encode(text).tolist() == (10 + expected).tolist()
        assert plain.decode(plain.encode(text)) == text == tekken.decode(tekken.encode(text))
    assert plain.special_tokens == {"<eos>": len(tokens), "<|user|>": len(tokens) + 1}
    # A role that the file has keeps its token; the one it lacks follows its last id.
    assert (
        tekken.vocabulary.eos_id == 2 and tekken.vocabulary.bos_id == 1 and tekken.vocabulary.size == 11 + len(tokens)
    )
    assert tekken.special_tokens["[INST]"] == 3 and tekken.special_tokens["<SPECIAL_9>"] == 9
    for tokenizer in (plain, tekken):
        tokenizer.save(tmp_path / tokenizer.fingerprint)
        again = load_tokenizer(tmp_path / tokenizer.fingerprint)
        assert again.fingerprint == tokenizer.fingerprint and again.lossless
        assert again.encode("a <s> </s> text").tolist() == tokenizer.encode("a <s> </s> text").tolist()


def test_known_patterns_cut_text_as_the_public_encodings_do(tokens, strange_texts, monkeypatch):
    monkeypatch.setattr(public, "load_tiktoken_bpe", lambda *_, **__: {})
    monkeypatch.setattr(public, "data_gym_to_mergeable_bpe_ranks", lambda *_, **__: {})
    ranks = {token: rank for rank, token in enumerate(tokens)}
    for name, official in (("gpt2", public.gpt2), ("cl100k", public.cl100k_base), ("o200k", public.o200k_base)):
        theirs, ours = (
            tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
            for pattern in (official()["pat_str"], PATTERNS[name])
        )
        for text in strange_texts:
            assert ours.encode_ordinary(text) == theirs.encode_ordinary(text), (name, text)


def test_damaged_files_and_patterns_are_named(tokens, tmp_path):
    path = rank_file(tmp_path / "qwen.tiktoken", tokens)
    assert read(path).kind == "tiktoken" and read(path).pattern == PATTERNS["qwen"]
    with pytest.raises(ValueError, match=r"tokenizer.pattern='\[': |is no regular expression"):
        read(path, pattern="[")
    lines = path.read_text().splitlines(keepends=True)
    for content, message in (
        (lines[:5] + lines[6:], "rank 5 is missing"),
        ([*lines, "%%% 3\n"], f"line {len(lines) + 1} is not a token in base 64"),
        ([line.replace(" 300", " 7") for line in lines], "rank"),
    ):
        path.write_text("".join(content))
        with pytest.raises(ValueError, match=message):
            read(path)
    for changes in ({"default_vocab_size": 10**6}, {"pattern": None}, {"default_num_special_tokens": "x"}):
        with pytest.raises(ValueError, match="not a whole tekken.json"):
            read(tekken_file(tmp_path / "tekken.json", tokens, **changes))
    with pytest.raises(ValueError, match="is for tiktoken's ranks"):
        TokenizerConfig(kind="bytes", pattern="gpt2")
