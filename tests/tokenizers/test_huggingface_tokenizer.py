"""Hugging Face definitions of each style: ids as the library gives them, special ids found by name."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from lmjax.tokenizers import TokenizerConfig, build_tokenizer, load_tokenizer


def special(*names):
    return [tokenizers.AddedToken(name, special=True, normalized=False) for name in names]


def byte_level(corpus):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens(special("<|endoftext|>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 400)]
    )
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5)
    return tokenizer


def word_piece(corpus):
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def unigram():
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("\u2581", -2.0), ("\u2581the", -1.0), ("<", -5.0), ("/", -5.0)]
    pieces += [("s", -4.0), (">", -5.0), ("t", -4.0)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(special("</s>", "<unk>"))
    return tokenizer


def build(tokenizer, tmp_path, **fields):
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_str(), encoding="utf-8")
    return build_tokenizer(TokenizerConfig(path=str(path), **fields), list)


def test_byte_level_definition(corpus, strange_texts, tmp_path):
    reference = byte_level(corpus)
    tokenizer = build(reference, tmp_path, num_sentinels=2)
    reference.no_truncation()
    reference.no_padding()
    reference.encode_special_tokens = True
    assert tokenizer.kind == "huggingface" and tokenizer.lossless
    assert tokenizer.vocabulary.eos_id == 400
    assert (tokenizer.vocabulary.pad_id, tokenizer.vocabulary.bos_id, tokenizer.vocabulary.mask_id) == (
        401,
        402,
        403,
    )
    assert tokenizer.vocabulary.sentinel_ids == (406, 407)
    for text in strange_texts:
        ids = tokenizer.encode(text)
        assert ids.tolist() == reference.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.vocabulary.byte_length_V[ids].sum() == len(text.encode())
    assert [bool(s) for s in tokenizer.vocabulary.word_start_V[tokenizer.encode("the of")]].count(True) == 1
    tokenizer.save(tmp_path / "folder")
    loaded = load_tokenizer(tmp_path / "folder")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("return self").tolist() == tokenizer.encode("return self").tolist()


def test_word_piece_definition(corpus, tmp_path):
    tokenizer = build(word_piece(corpus), tmp_path)
    vocabulary = tokenizer.vocabulary
    assert (vocabulary.pad_id, vocabulary.unk_id, vocabulary.cls_id) == (0, 1, 2)
    assert (vocabulary.sep_id, vocabulary.mask_id) == (3, 4)
    assert vocabulary.bos_id == 500 and vocabulary.eos_id == 501
    ids = tokenizer.encode("Return unbelievable")
    assert tokenizer.decode(ids) == "return unbelievable" and not tokenizer.lossless
    starts = vocabulary.word_start_V[ids]
    assert starts.sum() == 2 and starts[0] and len(ids) > 2
    masked = [*ids, vocabulary.mask_id]
    assert tokenizer.decode(masked, skip_special=False).endswith("[MASK]")
    assert not np.isin(tokenizer.encode("a [MASK] [CLS]"), vocabulary.special_ids[2:]).any()


def test_text_never_reaches_a_special_piece_of_the_model(tmp_path):
    reference = unigram()
    reference.encode_special_tokens = True
    tokenizer = build(reference, tmp_path, special_tokens=())
    assert tokenizer.vocabulary.eos_id == 1 and tokenizer.vocabulary.unk_id == 0
    assert 1 in reference.encode("the </s>").ids
    assert 1 not in tokenizer.encode("the </s>")
    assert tokenizer.decode(tokenizer.encode("the the")) == "the the"


@pytest.mark.parametrize("content", ["{}", "not json", json.dumps({"model": {"type": "BPE"}})])
def test_a_file_that_is_no_definition_is_refused_by_name(content, tmp_path):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ValueError, match=r"t\.json: not a Hugging Face tokenizer\.json"):
        build_tokenizer(TokenizerConfig(path=str(tmp_path / "t.json")), list)
