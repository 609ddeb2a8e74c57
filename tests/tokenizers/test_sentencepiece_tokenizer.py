"""SentencePiece: its own U+2581 survives, existing models load with their special ids, errors are clear."""

import io

import numpy as np
import pytest
import sentencepiece

from lmjax.tokenizers import TokenizerConfig, build_tokenizer, load_tokenizer
from lmjax.tokenizers.sentence_piece import SentencePieceTokenizer

KINDS = ("sentencepiece_bpe", "sentencepiece_unigram")


@pytest.fixture(params=KINDS)
def pieces(request, trained):
    return trained[request.param]


def train_elsewhere(corpus, **options) -> bytes:
    model = io.BytesIO()
    lines = (line for text in corpus for line in text.splitlines() if line.strip())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, minloglevel=2, vocab_size=400, **options
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def t5_model(corpus):
    """As T5's: pad 0, eos 1, no bos, NFKC, a space in front, no bytes; and names as user-defined pieces."""
    names = ["[MASK]", "<extra_id_0>", "<extra_id_1>"]
    return train_elsewhere(
        corpus, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, user_defined_symbols=names
    )


def test_the_space_mark_itself_is_spelled_in_bytes(pieces):
    mark = pieces.encode("\u2581")
    assert [pieces.token_bytes[token_id] for token_id in mark] == [b"\xe2", b"\x96", b"\x81"]
    assert pieces.encode("a\u2581b").tolist() != pieces.encode("a b").tolist()
    assert pieces.decode(pieces.encode("a\u2581 b")) == "a\u2581 b"


def test_no_piece_crosses_a_line_or_holds_two_digits(pieces):
    for token_id, token in enumerate(pieces.token_bytes):
        assert b"\n" not in token or token == b"\n", token_id
        assert sum(chr(byte).isdigit() for byte in token) <= 1 or len(token) == 1


def test_the_model_is_read_alike_by_sentencepiece_itself(pieces):
    reference = sentencepiece.SentencePieceProcessor(model_proto=pieces.files()["tokenizer.model"])
    text = "def f(x):\n    return  x + 12"
    assert pieces.encode(text).tolist() == reference.encode(text)
    assert reference.vocab_size() == pieces.vocabulary.size - len(pieces.special_tokens) + 1
    assert pieces.vocabulary.unk_id == reference.unk_id() == 0


def test_existing_model_keeps_its_special_ids_and_gains_the_missing(t5_model, tmp_path):
    path = tmp_path / "spiece.model"
    path.write_bytes(t5_model)
    config = TokenizerConfig(path=str(path), num_sentinels=4, named=("<fim_prefix>",))
    tokenizer = build_tokenizer(config, list)
    assert tokenizer.kind == "sentencepiece_unigram" and not tokenizer.lossless
    vocabulary = tokenizer.vocabulary
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id, vocabulary.mask_id) == (0, 1, 2, 3)
    assert vocabulary.sentinel_ids == (4, 5, 404, 405)
    assert (vocabulary.bos_id, vocabulary.cls_id, vocabulary.sep_id) == (400, 401, 402)
    assert vocabulary.named_ids == {"<fim_prefix>": 403} and vocabulary.size == 406
    assert tokenizer.decode(tokenizer.encode("return the value")) == "return the value"
    reference = sentencepiece.SentencePieceProcessor(model_proto=t5_model)
    assert tokenizer.encode("return the value").tolist() == reference.encode("return the value")
    tokenizer.save(tmp_path / "folder")
    assert load_tokenizer(tmp_path / "folder").vocabulary.sentinel_ids == vocabulary.sentinel_ids


def test_text_never_reaches_a_user_defined_special_piece(t5_model):
    tokenizer = SentencePieceTokenizer.from_model(t5_model, special_names=())
    reference = sentencepiece.SentencePieceProcessor(model_proto=t5_model)
    special = [i for i in tokenizer.vocabulary.special_ids if i != tokenizer.vocabulary.unk_id]
    for text in ("return [MASK] or <extra_id_1>", "［MASK］ wide", "<extra_id_0>"):
        assert np.isin(reference.encode(text), special).any()
        assert not np.isin(tokenizer.encode(text), special).any()
    ids = tokenizer.encode("the <extra_id_0> x")
    assert tokenizer.decode(ids).startswith("the ") and len(ids) > len(reference.encode("the <extra_id_0> x"))


def test_existing_model_with_bytes_and_a_leading_space_round_trips(corpus, tmp_path):
    model = train_elsewhere(
        corpus, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )  # fmt: skip
    (tmp_path / "m.model").write_bytes(model)
    tokenizer = build_tokenizer(TokenizerConfig(path=str(tmp_path / "m.model")), list)
    assert tokenizer.kind == "sentencepiece_bpe"
    assert tokenizer.vocabulary.bos_id == 1 and tokenizer.vocabulary.eos_id == 2
    for text in ("x", " two  spaces\n", "é😀"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    # The space in front is a byte the text does not have.
    assert tokenizer.vocabulary.byte_length_V[tokenizer.encode("x")].sum() == 2
    assert not tokenizer.lossless


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_the_text_cannot_give_are_refused_with_the_remedy(kind):
    with pytest.raises(ValueError, match=r"vocab_size=700: the training text has pieces for \d+ at most"):
        build_tokenizer(TokenizerConfig(kind=kind, vocab_size=700), lambda: ["abc abd\n"] * 10)
    with pytest.raises(ValueError, match=r"vocab_size=263: the characters .* need (\d+); raise it") as caught:
        build_tokenizer(TokenizerConfig(kind=kind, vocab_size=263), lambda: ["abcdefgh"] * 10)
    needed = int(str(caught.value).split("alone need ")[1].split(";")[0])
    tokenizer = build_tokenizer(TokenizerConfig(kind=kind, vocab_size=needed), lambda: ["abcdefgh"] * 10)
    assert tokenizer.vocabulary.size == needed
    with pytest.raises(ValueError, match="training corpus is empty"):
        build_tokenizer(TokenizerConfig(kind=kind, vocab_size=700), lambda: ["\n\n", "\r\n"])


@pytest.mark.parametrize("content", [b"", b"garbage" * 20])
def test_a_file_that_is_no_model_is_refused_by_name(content, tmp_path):
    (tmp_path / "bad.model").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.model: not a SentencePiece model"):
        build_tokenizer(TokenizerConfig(path=str(tmp_path / "bad.model")), list)
