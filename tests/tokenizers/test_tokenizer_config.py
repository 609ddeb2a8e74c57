"""Configuration, the training sample, the folder and the description: what users get wrong, and see."""

import json
import subprocess
import sys

import pytest

from lmjax.tokenizers import TokenizerConfig, build_tokenizer, describe, load_tokenizer, train_and_save
from lmjax.tokenizers.corpus import sample_corpus
from lmjax.tokenizers.special import append_special_tokens, assign_roles

METADATA = "lmjax_tokenizer.json"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "bpe"}, r"tokenizer\.vocab_size=None: kind 'bpe' needs a size"),
        (
            {"kind": "bpe", "vocab_size": 261},
            r"vocab_size=261: kind 'bpe' with 6 special tokens needs at least 262",
        ),
        ({"kind": "sentencepiece_bpe", "vocab_size": 262}, r"needs at least 263"),
        ({"kind": "bpe", "vocab_size": 300, "num_sentinels": 100}, r"needs at least 362"),
        ({"kind": "bytes", "vocab_size": 256}, r"vocab_size=256: bytes with 6 special tokens are 262 ids"),
        ({"vocab_size": 512}, r"vocab_size=512: bytes"),
        ({"kind": "huggingface"}, r"kind='huggingface' is loaded, not trained: set tokenizer\.path"),
        ({"special_tokens": ("<a>", "<a>")}, r"repeat \['<a>'\]"),
        ({"named": ("<eos>",)}, r"repeat \['<eos>'\]"),
        ({"named": ("<extra_id_0>",)}, r"tokenizer\.named has '<extra_id_0>': set tokenizer\.num_sentinels"),
        ({"special_tokens": ("",)}, r"special_tokens has an empty name"),
        ({"num_sentinels": -1}, r"num_sentinels=-1"),
        ({"max_train_bytes": 0}, r"max_train_bytes=0"),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**fields)


def test_default_is_bytes_with_few_special_tokens():
    tokenizer = build_tokenizer(TokenizerConfig(special_tokens=("<eos>",)), list)
    assert tokenizer.kind == "bytes" and tokenizer.vocabulary.size == 257
    assert tokenizer.encode("hé").tolist() == [104, 195, 169]
    assert tokenizer.vocabulary.eos_id == 256 and tokenizer.vocabulary.pad_id is None


def test_a_tokenizer_may_have_no_special_tokens():
    tokenizer = build_tokenizer(TokenizerConfig(kind="bytes", special_tokens=()), list)
    assert tokenizer.vocabulary.size == 256 and tokenizer.vocabulary.special_ids == ()
    # And the first bytes of the characters of Chinese and Japanese, each of which is a word.
    begin = b" \t\n\r\v\f\x1c\x1d\x1e\x1f\xe3\xe4\xe5\xe6\xe7\xe8\xe9"
    assert tokenizer.vocabulary.word_start_V.nonzero()[0].tolist() == sorted(begin)


def test_a_taken_role_is_not_added_twice():
    tokens = append_special_tokens({"</s>": 1}, ("<eos>", "<mask>", "<x>"), first_id=9)
    assert tokens == {"</s>": 1, "<mask>": 9, "<x>": 10}
    assert assign_roles(tokens) == {"eos": 1, "mask": 9}


@pytest.mark.processes
def test_importing_the_package_loads_no_tokenizer_library():
    code = "import sys, lmjax.tokenizers; print({'tiktoken', 'tokenizers', 'sentencepiece'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_the_sample_is_bounded_uniform_and_repeats():
    texts = [f"{i:04d}" + "é" * 48 for i in range(1000)]
    sample = sample_corpus(iter(texts), max_bytes=10_000, seed=1)
    assert sample == sample_corpus(iter(texts), max_bytes=10_000, seed=1)
    assert sample != sample_corpus(iter(texts), max_bytes=10_000, seed=2)
    assert len(sample) == 100 and sample == sorted(sample)
    means = [sum(int(t[:4]) for t in sample_corpus(texts, max_bytes=10_000, seed=s)) / 100 for s in range(10)]
    assert 460 < sum(means) / 10 < 540
    assert sample_corpus(texts, max_bytes=10**6, seed=0) == texts


def test_a_document_larger_than_the_sample_is_cut():
    assert sample_corpus(["é" * 10], max_bytes=5, seed=0) == ["éé"]
    assert "".join(sample_corpus(["ab" * 100_000], max_bytes=10**6, seed=0)) == "ab" * 100_000
    pieces = sample_corpus(["ab" * 100_000], max_bytes=70_000, seed=0)
    assert 0 < sum(map(len, pieces)) <= 70_000


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece_unigram"])
@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_an_empty_corpus_is_refused(kind, texts):
    with pytest.raises(ValueError, match="training corpus is empty"):
        build_tokenizer(TokenizerConfig(kind=kind, vocab_size=400), lambda: texts)


def test_path_must_hold_what_the_configuration_says(trained, tmp_path):
    trained["bpe"].save(tmp_path)
    path = str(tmp_path)
    assert build_tokenizer(TokenizerConfig(path=path), list).fingerprint == trained["bpe"].fingerprint
    assert build_tokenizer(TokenizerConfig(path=path, kind="bpe", vocab_size=600), list).kind == "bpe"
    for fields, message in (
        ({"kind": "bytes"}, "tokenizer.kind='bytes', but .* holds 'bpe'"),
        ({"vocab_size": 500}, "tokenizer.vocab_size=500, but .* has 600 ids"),
        ({"num_sentinels": 9}, "has 3 sentinels and lacks"),
        ({"named": ("<fim_middle>",)}, r"lacks \['<fim_middle>'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            build_tokenizer(TokenizerConfig(path=path, **fields), list)
    with pytest.raises(ValueError, match="there is no such file or folder"):
        build_tokenizer(TokenizerConfig(path=str(tmp_path / "nowhere")), list)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="neither a tokenizer's folder"):
        build_tokenizer(TokenizerConfig(path=str(tmp_path / "notes.txt")), list)


def test_another_tokenizer_is_not_overwritten(tmp_path):
    first = train_and_save(TokenizerConfig(), list, tmp_path)
    with pytest.raises(ValueError, match="holds another tokenizer"):
        train_and_save(TokenizerConfig(num_sentinels=1), list, tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == first.fingerprint


def test_a_damaged_folder_is_refused(trained, tmp_path):
    with pytest.raises(ValueError, match=f"{METADATA} does not exist"):
        load_tokenizer(tmp_path)
    trained["bpe"].save(tmp_path)
    good = json.loads((tmp_path / METADATA).read_text())

    def refused(message, **changes):
        (tmp_path / METADATA).write_text(json.dumps({**good, **changes}))
        with pytest.raises(ValueError, match=message):
            load_tokenizer(tmp_path)

    refused("kind 'abacus' is not known", kind="abacus")
    refused("format 2, not 1", format=2)
    refused("is not a tokenizer's metadata", special_tokens=["<pad>"])
    refused("is not a tokenizer's metadata", files={"../secret": "0"})
    refused("its fingerprint 0000 is not", fingerprint="0000")
    moved = {**good["special_tokens"], "<pad>": good["special_tokens"]["<bos>"]}
    refused("do not follow", special_tokens=moved)
    swapped = {**moved, "<bos>": good["special_tokens"]["<pad>"]}
    refused("the folder was edited", special_tokens=swapped)
    for text in ("{", "[]", "null"):
        (tmp_path / METADATA).write_text(text)
        with pytest.raises(ValueError, match=METADATA):
            load_tokenizer(tmp_path)
    (tmp_path / METADATA).write_text(json.dumps(good))
    content = (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing"):
        load_tokenizer(tmp_path)


def test_description_shows_each_token_of_a_text(trained):
    rows = describe(trained["bytes"], "a é").splitlines()
    assert rows[0].split() == ["kind", "bytes"] and rows[1].split() == ["size", "266"]
    assert rows[-4].split() == ["0", "97", "1", "'a'"]
    assert rows[-3].split() == ["1", "32", "1", "*", "'", "'"]
    assert rows[-1].split() == ["3", "169", "1", r"b'\xa9'"]
    assert "lossless     yes" in describe(trained["sentencepiece_unigram"])
