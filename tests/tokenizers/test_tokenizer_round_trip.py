"""What every tokenizer promises: exact round trips, exact byte counts, no special id from text."""

import codecs
import dataclasses

import numpy as np
import pytest

from lmjax.tokenizers import build_tokenizer, load_tokenizer


def test_any_text_comes_back_and_its_bytes_add_up(tokenizer, strange_texts):
    for text in strange_texts:
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32 and ids.ndim == 1
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode_bytes(ids) == text.encode()
        assert tokenizer.vocabulary.byte_length_V[ids].sum() == len(text.encode())
        assert not np.isin(ids, tokenizer.vocabulary.special_ids).any()
    assert tokenizer.lossless


def test_special_ids_follow_text_and_are_found_by_role(tokenizer, configs):
    vocabulary = tokenizer.vocabulary
    names = configs[tokenizer.kind].all_special_tokens
    first = vocabulary.size - len(names)
    assert [tokenizer.special_tokens[name] for name in names] == list(range(first, vocabulary.size))
    roles = ("pad", "bos", "eos", "mask", "cls", "sep")
    assert [vocabulary.require(role, needed_by="this test") for role in roles] == list(range(first, first + 6))
    assert vocabulary.require("<eos>", needed_by="this test") == first + 2
    assert vocabulary.require("<fim_prefix>", needed_by="this test") == first + 6
    assert vocabulary.sentinel_ids == (first + 7, first + 8, first + 9)
    assert vocabulary.special_ids[-10:] == tuple(range(first, vocabulary.size))
    assert (vocabulary.byte_length_V[list(vocabulary.special_ids)] == 0).all()
    assert configs[tokenizer.kind].vocab_size in (None, vocabulary.size)
    with pytest.raises(ValueError, match="FIM needs a '<fim_suffix>' token"):
        vocabulary.require("<fim_suffix>", needed_by="FIM")


def test_special_tokens_decode_to_nothing_or_to_their_names(tokenizer):
    vocabulary = tokenizer.vocabulary
    ids = [vocabulary.bos_id, *tokenizer.encode("a é"), vocabulary.mask_id, vocabulary.eos_id]
    assert tokenizer.decode(ids) == "a é"
    assert tokenizer.decode(ids, skip_special=False) == "<bos>a é<mask><eos>"
    with pytest.raises(ValueError, match=f"token id {vocabulary.size} "):
        tokenizer.decode([vocabulary.size])
    with pytest.raises(ValueError, match="token id -1 "):
        tokenizer.decode([-1])


def test_half_a_character_decodes_to_a_replacement_and_streams_whole(tokenizer):
    text = "a😀\u2581é"
    ids = tokenizer.encode(text)
    stream = codecs.getincrementaldecoder("utf-8")(errors="replace")
    parts = [stream.decode(tokenizer.decode_bytes([token_id])) for token_id in ids]
    assert "".join(parts) == text
    emoji = tokenizer.encode("😀")
    if len(emoji) > 1:
        assert "\ufffd" in tokenizer.decode(emoji[:-1])


def test_batch_equals_one_by_one(tokenizer, strange_texts):
    expected = [tokenizer.encode(text).tolist() for text in strange_texts]
    for num_threads in (1, 3, None):
        batch = tokenizer.encode_batch(strange_texts, num_threads=num_threads)
        assert [ids.tolist() for ids in batch] == expected


def test_training_twice_gives_the_same_tokenizer(tokenizer, configs, corpus):
    again = build_tokenizer(configs[tokenizer.kind], lambda: iter(corpus))
    assert again.fingerprint == tokenizer.fingerprint
    assert again.token_bytes == tokenizer.token_bytes


def test_whatever_decides_ids_changes_the_fingerprint(trained, configs, corpus):
    assert len({tokenizer.fingerprint for tokenizer in trained.values()}) == len(trained)
    for kind, tokenizer in trained.items():
        renamed = dataclasses.replace(configs[kind], named=("<fim_middle>",))
        assert build_tokenizer(renamed, lambda: corpus).fingerprint != tokenizer.fingerprint
        if kind != "bytes":
            other_text = build_tokenizer(configs[kind], lambda: corpus[1:])
            assert other_text.vocabulary.size == tokenizer.vocabulary.size
            assert other_text.fingerprint != tokenizer.fingerprint


def test_saved_tokenizer_loads_the_same(tokenizer, strange_texts, tmp_path):
    tokenizer.save(tmp_path / "new" / "folder")
    tokenizer.save(tmp_path / "new" / "folder")
    loaded = load_tokenizer(tmp_path / "new" / "folder")
    assert type(loaded) is type(tokenizer) and loaded.kind == tokenizer.kind
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.special_tokens == tokenizer.special_tokens
    for text in strange_texts[::7]:
        assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()


def test_a_word_starts_where_whitespace_does(tokenizer):
    text = "def words(in_text):\n    return  unbelievable [1]"
    ids = tokenizer.encode(text)
    starts = tokenizer.vocabulary.word_start_V[ids]
    lengths = tokenizer.vocabulary.byte_length_V[ids]
    offsets = np.cumsum(lengths) - lengths
    assert [bool(s) for s in starts] == [text[offset].isspace() for offset in offsets]
    # However finely text is cut, each word that follows whitespace is inside one run of tokens.
    words = {text[offset:].split()[0] for offset, start in zip(offsets, starts, strict=True) if start}
    assert words == set(text.split()) - {"def"}
    assert tokenizer.vocabulary.word_start_V[list(tokenizer.vocabulary.special_ids)].all()


def test_lone_surrogates_are_refused_by_place(tokenizer):
    with pytest.raises(ValueError, match=r"U\+D800\) at character 2"):
        tokenizer.encode("ab\ud800")


def test_every_token_but_special_ones_can_be_decoded_alone(tokenizer):
    special = set(tokenizer.vocabulary.special_ids)
    for token_id in range(tokenizer.vocabulary.size):
        assert (tokenizer.decode_bytes([token_id]) == b"") == (token_id in special)


def test_training_compresses(trained, corpus):
    lengths = {kind: len(tokenizer.encode(corpus[1])) for kind, tokenizer in trained.items()}
    assert lengths["bytes"] == len(corpus[1].encode())
    assert all(lengths[kind] < 0.6 * lengths["bytes"] for kind in lengths if kind != "bytes"), lengths
