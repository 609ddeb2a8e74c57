"""Over every shape of tokenizer: parts make the whole, a continuation keeps its space, bytes add up, words are told."""

import itertools

import numpy as np
import pytest
import tokenizers
from kinds import KINDS, TRAINING, definition, ours, sentence_piece
from tokenizers import models, pre_tokenizers

from lmjax.tokenizers import TokenizerConfig, build_tokenizer

PARTS = (
    ["Q: 1+1=", "2."],
    ["User:", " hi\n", "Bot:", " hello"],
    ["play", "ing"],
    ["the ", "dog"],
    ["the", " dog"],
    ["", "the fox"],
    [" ", "the"],
    ["def add(a, b):\n", "    return a", " + b"],
    ["a", "  b"],
    ["the qu", "ick brown fo", "x jumps"],
    ["\ua66e the", " fox \U00012000"],
)
EXACT = {"bytes", "bpe", "sentencepiece_bpe", "sentencepiece_unigram", "gemma.model", "gpt2", "llama3"}
"""Kinds whose ids tell all of any text."""
MARKS_ENDS = {"clip", "openai_gpt"}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param, KINDS[request.param]()


def test_parts_of_a_text_make_the_whole(kind):
    name, tokenizer = kind
    for parts in PARTS:
        if name in MARKS_ENDS and not all(part[-1:].isspace() or after[:1] == " " for part, after in pairs(parts)):
            continue  # A mark at the end of each word leaves none that goes on in the next part.
        whole = tokenizer.decode(tokenizer.encode("".join(parts)))
        assert tokenizer.decode(np.concatenate(tokenizer.encode_parts(parts))) == whole
        if name in EXACT:
            assert whole == "".join(parts)


def pairs(parts):
    return list(itertools.pairwise(parts))


def test_a_later_part_is_what_the_whole_has_there(kind):
    name, tokenizer = kind
    for before, text in (("the", " dog"), ("the fox", " jumps over"), ("User: hi\n", "Bot:")):
        whole = tokenizer.encode(before + text).tolist()
        if "\n" in before and name not in EXACT:
            continue
        assert [*tokenizer.encode(before), *tokenizer.encode(text, after=before)] == whole


def test_a_continuation_is_decoded_as_what_stands_after_a_text(kind):
    _, tokenizer = kind
    for text in ("the quick brown fox jumps", "User: hi\nBot:  hello, Grüße", " a  b "):
        ids = tokenizer.encode(text).tolist()
        whole = tokenizer.decode(ids)
        for cut in range(len(ids) + 1):
            before = tokenizer.decode_bytes(ids[:cut])
            if before == before.decode(errors="ignore").encode():
                assert before.decode() + tokenizer.decode_after(ids[:cut], ids[cut:]) == whole


def test_a_space_is_taken_from_documents_only(kind):
    _, tokenizer = kind
    special = tokenizer.vocabulary.eos_id
    the, dog = tokenizer.encode("the").tolist(), tokenizer.encode(" dog", after="the").tolist()
    if special is not None:
        assert tokenizer.decode([*the, special, *the]) == "thethe"
    if (mask := tokenizer.vocabulary.mask_id) is not None:
        assert tokenizer.decode([*the, mask, *dog]) == "the dog"


def test_what_is_said_to_come_back_does(kind, strange_texts):
    name, tokenizer = kind
    assert tokenizer.lossless == tokenizer.vocabulary.exact_bytes == (name in EXACT)
    for text in (*strange_texts, "zwölf" * 2000, "a\r\nb\r c\0\u2581\u2581 \u200d\u0301", "<|endoftext|></s><0x41>"):
        ids = tokenizer.encode(text)
        if tokenizer.lossless:
            assert tokenizer.decode(ids) == text
            assert tokenizer.vocabulary.byte_length_V[ids].sum() == len(text.encode())
        unknown = tokenizer.vocabulary.unk_id
        assert not np.isin(ids, [i for i in tokenizer.vocabulary.special_ids if i != unknown]).any()


def test_what_is_put_in_front_is_all_that_the_exact_ones_of_others_add():
    """Llama 2's text comes back, its line ends and runs of spaces too, with one byte more counted."""
    for name in ("llama2.model", "llama2", "gemma", "metaspace_never"):
        tokenizer = KINDS[name]()
        added = int(name.startswith("llama2"))
        for text in ("the fox", "  two  spaces\n\n\tand é😀", "x" * 400, "\r\n"):
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert tokenizer.vocabulary.byte_length_V[ids].sum() == len(text.encode()) + added


def test_runs_of_spaces_that_are_added_tokens_are_spaces():
    tokenizer = KINDS["gemma"]()
    ids = tokenizer.encode("a    b")
    assert len(ids) < 6 and tokenizer.token_bytes[ids[1]] == b"    "[: len(tokenizer.token_bytes[ids[1]])]


CHINESE = "我们喜欢在河边散步。他昨天买了一本书，学生学习语言。" * 20
THAI = "สวัสดีครับยินดีต้อนรับทุกท่าน วันนี้อากาศดีมาก " * 20


@pytest.mark.parametrize("text", [CHINESE, THAI, "naïve café, Grüße und Straße"], ids=["chinese", "thai", "latin"])
@pytest.mark.parametrize("algorithm", ["bpe", "sentencepiece_bpe", "sentencepiece_unigram"])
def test_trained_on_any_language_every_text_comes_back(algorithm, text, strange_texts):
    config = TokenizerConfig(kind=algorithm, vocab_size=258 + len(set(text)), special_tokens=())
    tokenizer = build_tokenizer(config, lambda: [text.replace(" ", "")] * 5)
    assert tokenizer.lossless
    for other in (*strange_texts[::9], "a b  c", CHINESE, THAI):
        assert tokenizer.decode(tokenizer.encode(other)) == other


def starts(tokenizer, text):
    """The text cut where words begin, as the corruption of whole words does."""
    ids = tokenizer.encode(text)
    begin, end = tokenizer.vocabulary.word_start_V[ids], tokenizer.vocabulary.word_end_V[ids]
    opens = begin | np.pad(end[:-1], (1, 0))
    opens[0] = True
    return [tokenizer.decode(part) for part in np.split(ids, np.flatnonzero(opens)[1:])]


def test_words_of_a_script_without_spaces():
    tokenizer = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=300), lambda: [CHINESE])
    words = starts(tokenizer, "我们喜欢在河边")
    assert "".join(words) == "我们喜欢在河边" and len(words) >= 3
    thai = build_tokenizer(TokenizerConfig(kind="bpe", vocab_size=320), lambda: [THAI])
    assert thai.vocabulary.word_start_V is None
    assert len(starts(ours("bytes"), "我们 of日本")) == 5


def test_a_mark_at_the_end_of_a_word_begins_the_next():
    for name in MARKS_ENDS:
        tokenizer = KINDS[name]()
        ids = tokenizer.encode("the fox jumps over")
        assert [word.strip() for word in starts(tokenizer, "the fox jumps over")] == ["the", "fox", "jumps", "over"]
        assert tokenizer.decode(ids) == "the fox jumps over"
        assert tokenizer.vocabulary.byte_length_V[ids].sum() == len("the fox jumps over ")


def test_words_are_not_told_where_hardly_a_token_begins_one():
    library = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "fox": 2}, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    assert definition(library).vocabulary.word_start_V is None
    no_mark = sentence_piece("unigram", add_dummy_prefix=False, byte_fallback=True)
    assert no_mark.vocabulary.word_start_V is not None and TRAINING
