"""Folders and files as others publish them: read as they are meant, or refused by the name of their format."""

import base64
import json

import pytest
import tokenizers
from kinds import TRAINING, byte_level, definition, legacy_llama, sentence_piece, sentencepiece_model, word_piece

from lmjax.cli.tokenizer import run as show
from lmjax.tokenizers import TokenizerConfig, build_tokenizer, load_tokenizer

MODEL = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}


def read(path, **fields):
    return build_tokenizer(TokenizerConfig(path=str(path), special_tokens=(), **fields), list)


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        name = name.replace("__", ".")
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture
def spm(tmp_path):
    """A folder with a SentencePiece model, and the number of its pieces."""
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model("bpe", **MODEL))
    return tmp_path, read(tmp_path).vocabulary.size


def token(content, *, special=True):
    return {"content": content, "special": special, "lstrip": False}


def test_a_model_has_the_tokens_and_roles_of_the_files_beside_it(spm, tmp_path):
    folder, size = spm
    added = {"[PAD]": size, "<|im_start|>": size + 1, "<|im_end|>": size + 2, "</s>": 2}
    config = {
        "added_tokens_decoder": {str(i): token(name) for name, i in added.items()},
        "eos_token": token("<|im_end|>"),
    }
    write(folder, added_tokens__json=added, tokenizer_config__json=config)
    write(folder, special_tokens_map__json={"pad_token": "[PAD]", "eos_token": "</s>"})
    tokenizer = read(folder)
    vocabulary = tokenizer.vocabulary
    assert (vocabulary.size, vocabulary.pad_id, vocabulary.eos_id, vocabulary.bos_id) == (size + 3, size, size + 2, 1)
    assert vocabulary.require("<|im_start|>", needed_by="this test") == size + 1
    assert tokenizer.encode("<|im_start|>").max() < size
    tokenizer.save(tmp_path / "ours")
    again = load_tokenizer(tmp_path / "ours")
    assert again.fingerprint == tokenizer.fingerprint and again.vocabulary.eos_id == size + 2


@pytest.mark.parametrize(
    ("added", "words"),
    [
        ({"<a>": 5000}, r"added_tokens.json: the ids \[5000\] do not follow"),
        ({"<a>": -1}, r"added_tokens.json: the id of '<a>' is -1"),
        ({"<a>": 10**30}, r"added_tokens.json: the id of '<a>'"),
        ({"<a>": "5"}, r"added_tokens.json: the id of '<a>' is '5'"),
        ({"<a>": 7}, r"added_tokens.json gives '<a>' the id 7, which the model gives to"),
        ([1], r"added_tokens.json is a JSON list, not an object"),
    ],
)
def test_added_tokens_that_cannot_be_are_refused_by_file(spm, added, words):
    folder, _ = spm
    names = list(added) if isinstance(added, dict) else []
    write(folder, added_tokens__json=added, special_tokens_map__json={"additional_special_tokens": names})
    with pytest.raises(ValueError, match=words):
        read(folder)


def test_an_added_token_that_text_becomes_is_refused(spm):
    folder, size = spm
    write(folder, added_tokens__json={"word": size})
    with pytest.raises(ValueError, match=r"added_tokens.json adds 'word', a token that is not special"):
        read(folder)


def test_vocabulary_and_merges_of_gpt2_are_its_tokenizer(tmp_path, strange_texts):
    library = byte_level()
    model = json.loads(library.to_str())["model"]
    merges = "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"])
    vocab = {**model["vocab"], "<|endoftext|>": len(model["vocab"])}
    folder = write(tmp_path / "gpt2", vocab__json=vocab, merges__txt=merges)
    tokenizer = read(folder)
    assert tokenizer.lossless and tokenizer.vocabulary.eos_id == vocab["<|endoftext|>"]
    library.encode_special_tokens = True
    for text in strange_texts[::5]:
        assert tokenizer.encode(text).tolist() == library.encode(text).ids
    write(folder, tokenizer_config__json={"tokenizer_class": "Qwen2Tokenizer"})
    with pytest.raises(ValueError, match=r"vocab.json: .* no plain GPT-2's \(Qwen2Tokenizer\)"):
        read(folder)


def test_a_vocabulary_of_bert_is_read_where_its_case_is_known(tmp_path):
    library = word_piece(lowercase=False)
    names = sorted(library.get_vocab(), key=library.get_vocab().__getitem__)
    folder = write(tmp_path / "bert", vocab__txt="\n".join(names))
    with pytest.raises(ValueError, match=r"vocab.txt: a WordPiece vocabulary, .* lower-cased"):
        read(folder)
    write(folder, tokenizer_config__json={"do_lower_case": False, "tokenizer_class": "BertTokenizer"})
    tokenizer = read(folder)
    assert tokenizer.vocabulary.mask_id == 4 and tokenizer.vocabulary.word_start_V is not None
    assert tokenizer.encode("The fox, playing").tolist() == library.encode("The fox, playing").ids
    write(folder, tokenizer_config__json={"do_lower_case": False, "strip_accents": "no"})
    with pytest.raises(ValueError, match="strip_accents='no'"):
        read(folder)


def test_a_model_with_spaces_after_words_is_refused():
    with pytest.raises(ValueError, match="treat_whitespace_as_suffix"):
        sentence_piece("unigram", treat_whitespace_as_suffix=True)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("some.tiktoken", "YQ== 0\nYg== 1\n", "tiktoken's ranks, which do not say how text is cut"),
        ("tokenizer.model", "IQ== 0\nIg== 1\n", "tiktoken's ranks, which do not say how text is cut"),
        ("cl100k.tiktoken", "IQ== 0\nIg== 1\n", "254 of the 256 bytes have no rank"),
        ("tekken.json", {"config": {"pattern": "x"}, "vocab": []}, "not a whole tekken.json"),
        ("sentencepiece.bpe.model", "x", "fairseq"),
        ("merges.txt", "a b", "one of several files"),
    ],
)
def test_other_formats_are_named_with_the_remedy(tmp_path, name, content, words):
    write(tmp_path, **{name.replace(".", "__"): content})
    for path in (tmp_path / name, tmp_path) if words != "one of several files" else (tmp_path / name,):
        with pytest.raises(ValueError, match=words):
            read(path)
    assert base64.b64decode("YQ==") == b"a"


def test_the_command_shows_a_file_and_a_folder(spm, capsys):
    folder, size = spm
    for source in (folder / "tokenizer.model", folder):
        show([str(source), "--text", "the fox"])
        out = capsys.readouterr().out
        assert f"size         {size}\n" in out and "  'f'" in out


def damages(library):
    """A definition, damaged in one place after the other: wrong types, ids, patterns, depth."""
    fields = json.loads(library.to_str())
    wrong = (None, -1, 10**12, "x", [], {}, [[[]]], True)
    for key in fields:
        for value in wrong:
            yield {**fields, key: value}
    for key in fields["model"]:
        for value in wrong:
            yield {**fields, "model": {**fields["model"], key: value}}
    for value in wrong:
        yield {**fields, "added_tokens": [{"id": value, "content": "<s>", "special": True}]}
        yield {**fields, "added_tokens": [{**(fields["added_tokens"] or [{}])[0], "content": value}]}
    for pattern in ("(", "(?<=a+)b", "[", "a{99999999}", "\\", "(?P<x"):
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        yield {**fields, "pre_tokenizer": split}
        yield {**fields, "normalizer": {"type": "Replace", "pattern": {"Regex": pattern}, "content": "x"}}


@pytest.mark.parametrize("library", [byte_level, word_piece, legacy_llama], ids=["byte_level", "bert", "llama2"])
def test_a_damaged_definition_is_read_or_refused_by_name(library, tmp_path):
    path = tmp_path / "tokenizer.json"
    refused = 0
    for number, fields in enumerate(damages(library())):
        path.write_text(json.dumps(fields))
        try:
            read(path).encode("the fox")
        except ValueError as error:
            assert str(path) in str(error) or "cannot encode" in str(error), number
            refused += 1
    assert refused > 30
    for content in ("[" * 100_000, '{"a":' * 100_000, "\xff\xfe", "null", "[]"):
        path.write_text(content, encoding="latin-1")
        with pytest.raises(ValueError, match=r"tokenizer.json"):
            read(path)


def test_a_damaged_model_is_read_or_refused_by_name(tmp_path):
    model = sentencepiece_model("bpe", **MODEL)
    path = tmp_path / "m.model"
    for place in range(0, len(model), len(model) // 60):
        for content in (model[:place], model[:place] + bytes([model[place] ^ 0xFF]) + model[place + 1 :]):
            path.write_bytes(content)
            try:
                read(path).encode("the fox")
            except ValueError as error:
                assert str(path) in str(error)


def test_a_saved_folder_of_wrong_types_is_refused(tmp_path):
    definition(tokenizers.Tokenizer.from_str(byte_level().to_str())).save(tmp_path)
    path = tmp_path / "lmjax_tokenizer.json"
    good = json.loads(path.read_text())
    for key in good:
        for value in (None, -1, 1.5, "x", [], {"a": None}, {"a": -1}, {"a": 10**30}, True):
            path.write_text(json.dumps({**good, key: value}))
            with pytest.raises(ValueError, match=r"tokenizer|metadata"):
                assert load_tokenizer(tmp_path) is None, (key, value)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="not JSON"):
        load_tokenizer(tmp_path)
    assert TRAINING
