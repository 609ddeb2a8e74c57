"""Tokenizers beside a model: roles by whatever file names them, and one of ours as transformers reads it."""

import io
import json

import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from lmjax.interop.tokenizer_export import Marks, save_tokenizer_files
from lmjax.interop.tokenizer_files import begins_with_bos, load_tokenizer_files
from lmjax.tokenizers import TokenizerConfig, build_tokenizer, load_tokenizer
from lmjax.tokenizers.declared import ROLES

TEXTS = ["the cat sat on the mat, naïvely.\n", "  two  spaces\tand 123 <mask> 😀", "def f(x):\n    return x ** 2"] * 40


def word_level(*names: str) -> tokenizers.Tokenizer:
    characters = [chr(number) for number in range(97, 123)]
    vocabulary = {name: number for number, name in enumerate([*names, *characters])}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=names[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(list(names[:-1]))
    return tokenizer


def test_roles_come_from_every_file_that_names_them(tmp_path):
    library = word_level("<unk>", "<s>", "</s>", "<|im_end|>", "<blank>", "plain")
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    (tmp_path / "tokenizer.json").write_text(library.to_str())
    # RoBERTa's way: one token for two roles; and a role for a token that is not marked special.
    named = {
        "cls_token": "<s>",
        "sep_token": {"content": "</s>", "lstrip": False},
        "mask_token": "plain",
        "eos_token": "</s>",
    }
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(named))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "pad_token": None}))
    tokenizer = load_tokenizer_files(tmp_path, {"eos_token_id": 2, "pad_token_id": 4, "bos_token_id": [1, 2]})
    found = {role: getattr(tokenizer.vocabulary, f"{role}_id") for role in ROLES}
    assert found == {"bos": 1, "eos": 3, "pad": 4, "mask": 5, "cls": 1, "sep": 2, "unk": 0}
    assert begins_with_bos(tmp_path, tokenizer)
    tokenizer.save(tmp_path / "ours")
    again = load_tokenizer(tmp_path / "ours")
    assert again.fingerprint == tokenizer.fingerprint and again.vocabulary.cls_id == 1


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no tokenizer: there is neither tokenizer.json nor .*--tokenizer"):
        load_tokenizer_files(tmp_path, {})
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a Hugging Face"):
        load_tokenizer_files(tmp_path, {})


def test_sentinels_of_t5_go_down_from_the_last_id(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=60, model_type="unigram", hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"extra_ids": 3}))
    vocabulary = load_tokenizer_files(tmp_path, {"model_type": "t5"}).vocabulary
    assert vocabulary.sentinel_ids == (vocabulary.size - 1, vocabulary.size - 2, vocabulary.size - 3)
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id, vocabulary.bos_id) == (0, 1, 2, None)
    other = load_tokenizer_files(tmp_path, {"model_type": "llama"}).vocabulary
    assert other.size == vocabulary.size - 3 and not other.sentinel_ids


def test_sentinels_of_mt5_are_words_of_its_model(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=60, model_type="unigram", hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
        user_defined_symbols=["\u2581<extra_id_1>", "\u2581<extra_id_0>"],
    )  # fmt: skip
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    tokenizer = load_tokenizer_files(tmp_path, {"model_type": "mt5"})
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    assert tokenizer.vocabulary.sentinel_ids == tuple(pieces.piece_to_id(f"\u2581<extra_id_{n}>") for n in (0, 1))
    assert tokenizer.vocabulary.size == pieces.vocab_size()


@pytest.mark.parametrize("kind", ["bytes", "bpe", "sentencepiece_bpe", "sentencepiece_unigram"])
def test_ours_become_theirs_with_the_same_ids(kind, tmp_path):
    size = None if kind == "bytes" else 301
    tokenizer = build_tokenizer(TokenizerConfig(kind=kind, vocab_size=size, num_sentinels=2), lambda: iter(TEXTS))
    assert save_tokenizer_files(tmp_path, tokenizer, max_length=77) is None
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS[:3]:
        plain = text.replace("<mask>", "")
        assert library.encode(plain, add_special_tokens=False).ids == tokenizer.encode(plain).tolist()
        assert library.decode(tokenizer.encode(plain).tolist()) == plain
    assert library.encode("<mask>").ids == [tokenizer.vocabulary.mask_id]
    back = load_tokenizer_files(tmp_path, {})
    assert [getattr(back.vocabulary, f"{role}_id") for role in ROLES] == [
        getattr(tokenizer.vocabulary, f"{role}_id") for role in ROLES
    ]
    assert back.vocabulary.sentinel_ids == tokenizer.vocabulary.sentinel_ids
    np.testing.assert_array_equal(back.encode(TEXTS[1]), tokenizer.encode(TEXTS[1]))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 77 and config["mask_token"] == "<mask>"


def test_a_normalising_sentencepiece_model_is_handed_on_as_it_is(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=60, model_type="unigram", hard_vocab_limit=False,
        normalization_rule_name="nfkc_cf", minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = load_tokenizer_files(tmp_path, {})
    marks = Marks(before=tokenizer.vocabulary.bos_id)
    problem = save_tokenizer_files(tmp_path / ".", tokenizer, max_length=8, marks=marks)
    assert "tokenizer.model only" in problem and not (tmp_path / "tokenizer.json").exists()
    assert (tmp_path / "tokenizer.model").read_bytes() == model.getvalue()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["add_bos_token"] and not config["add_eos_token"]
    assert {token["content"]: int(i) for i, token in config["added_tokens_decoder"].items()} == tokenizer.special_tokens


def test_tokens_added_to_a_definition_are_exported(tmp_path):
    (tmp_path / "tokenizer.json").write_text(word_level("<unk>", "</s>", "plain").to_str())
    tokenizer = build_tokenizer(TokenizerConfig(path=str(tmp_path / "tokenizer.json"), num_sentinels=2), lambda: ())
    (tmp_path / "out").mkdir()
    save_tokenizer_files(tmp_path / "out", tokenizer, max_length=8)
    back = load_tokenizer_files(tmp_path / "out", {})
    assert back.vocabulary.size == tokenizer.vocabulary.size and back.special_tokens == tokenizer.special_tokens


def test_tokens_that_gaps_among_the_ids_leave_no_place_for_are_named(tmp_path):
    definition = json.loads(word_level("<unk>", "</s>", "plain").to_str())
    del definition["model"]["vocab"]["c"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    tokenizer = build_tokenizer(
        TokenizerConfig(path=str(tmp_path / "tokenizer.json"), special_tokens=("<mask>",)), list
    )
    assert "without <mask>" in save_tokenizer_files(tmp_path, tokenizer, max_length=8)
