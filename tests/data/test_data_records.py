"""Bad records are refused or left out and counted; the tail of a file is its end; long texts are not held."""

import json

import numpy as np
import pytest

from lmjax.data.config import DataConfig
from lmjax.data.prepare import archives, long_text, text_records
from lmjax.data.prepare.documents import applicable, read_documents, split_document, texts
from lmjax.data.prepare.prepare import prepare
from lmjax.data.prepare.sources import find_files, plan_units
from lmjax.data.rows.shard_reader import open_shards
from lmjax.data.tally import Tally

BAD = {
    "cut": (b'{"text": "half a rec', "not valid JSON"),
    "a list": (b'["text"]', "a JSON list, not an object"),
    "no field": (b'{"id": 7}', "no field 'text'"),
    "null": (b'{"text": null}', "field 'text' is null"),
    "number": (b'{"text": 1}', "field 'text' is 1"),
    "NUL": (b"\0\0\0\0", "NUL bytes"),
    "escaped NUL": (b'{"text": "ab\\u0000c"}', "character 2 of a text is NUL, which no text has"),
    "deep": (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "JSON nested too deeply"),
    "long": (b'{"text": "' + b"x" * 300_000 + b'"}', "a record of 300,012 bytes"),
    "not UTF-8": (b'{"text": "caf\xe9"}', "byte 0xe9 at offset 13 is not UTF-8"),
    "surrogate": (b'{"text": "a\\ud800"}', "character 1 of a text is an unpaired surrogate"),
}
SETTINGS = {"max_record_bytes": 250_000, "decode_errors": "strict", "valid_fraction": 0.0}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("shard_bytes", [60, 1 << 20])
def test_bad_records_are_refused_or_left_out(tmp_path, tokenizer, kind, shard_bytes):
    line, words = BAD[kind]
    good = [json.dumps({"text": f"story {n}"}).encode() for n in range(6)]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*good[:3], line, *good[3:]]))
    config = DataConfig(path=str(path), shard_bytes=shard_bytes, **SETTINGS)
    with pytest.raises(ValueError, match=f"a.jsonl, line 4: {words}.*data.bad_records=skip"):
        prepare(config, tokenizer, tmp_path / "refused", num_workers=1)
    skip = DataConfig(path=str(path), shard_bytes=shard_bytes, bad_records="skip", **SETTINGS)
    manifest = prepare(skip, tokenizer, tmp_path / "out", num_workers=1)
    assert manifest.total("train", "documents") == 6 and manifest.bad_records == 1
    (place,) = manifest.bad_places
    assert f"a.jsonl, line 4: {words}" in place
    assert f"left out 1 records that cannot be read: {path}, line 4" in "\n".join(manifest.notes)


def test_bad_records_of_an_array_and_of_text(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "a"}, {"id": 1}, {"text": "b"}]')
    (tmp_path / "b.txt").write_bytes(b"c---d\0d---e")
    config = DataConfig(path=str(tmp_path), bad_records="skip", document_separator="---", valid_fraction=0.0)
    tally = Tally()
    units = plan_units(find_files(config), 1)
    found = [d.text for unit in units for piece in unit for d in read_documents(config, piece, tally=tally)]
    assert found == ["a", "b", "c", "e"] and tally.bad_records == 2
    assert "record 2: no field 'text'" in tally.bad_places[0] and "offset 5 is NUL" in tally.bad_places[1]
    with pytest.raises(ValueError, match="b.txt: the byte at offset 5 is NUL, which no text has"):
        list(texts(DataConfig(path=str(tmp_path / "b.txt"))))


def test_numbers_too_long_for_python_are_no_matter(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x", "id": %s}\n' % ("9" * 5000))
    assert list(texts(DataConfig(path=str(tmp_path / "a.jsonl"), valid_fraction=0.0))) == ["x"]


def test_many_bad_records_are_counted_and_some_named(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' + "no\n" * 100)
    config = DataConfig(path=str(tmp_path / "a.jsonl"), bad_records="skip", valid_fraction=0.0, shard_bytes=40)
    manifest = prepare(config, tokenizer, tmp_path / "out", num_workers=1)
    assert manifest.bad_records == 100 and len(manifest.bad_places) == 5
    (tmp_path / "a.jsonl").write_text("no\n" * 100)
    with pytest.raises(ValueError, match="no document has any text .*left out 100 records.*line 1: not valid JSON"):
        prepare(config, tokenizer, tmp_path / "none", num_workers=1)


def test_bytes_that_are_not_utf8_have_a_limit(tmp_path, tokenizer):
    line = "Größe und Länge\n"
    (tmp_path / "a.txt").write_bytes(line.encode("latin-1"))
    for read in (lambda c: list(texts(c)), lambda c: prepare(c, tokenizer, tmp_path / "out")):
        with pytest.raises(ValueError, match=r"3 of 16 bytes are not UTF-8.*data.max_undecodable=0.01.*iconv"):
            read(DataConfig(path=str(tmp_path), document_glob="*.txt", valid_fraction=0.0))
    (tmp_path / "a.txt").write_bytes(line.encode("latin-1") + b"text " * 80)
    manifest = prepare(DataConfig(path=str(tmp_path / "a.txt"), valid_fraction=0.0), tokenizer, tmp_path / "few")
    assert "replaced 3 bytes that are not UTF-8" in manifest.notes[1]


# Separators


def test_a_separator_found_nowhere_is_refused_and_in_some_is_said(tmp_path, tokenizer):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("one two")
    config = DataConfig(path=str(tmp_path / "in"), document_separator="<|end|>", valid_fraction=0.0)
    for read in (lambda: list(texts(config)), lambda: prepare(config, tokenizer, tmp_path / "out")):
        with pytest.raises(ValueError, match=r"document_separator='<\|end\|>' occurs in none of the 1 text files"):
            read()
    assert applicable(config).document_separator is None
    (tmp_path / "in" / "b.txt").write_text("one<|end|>two")
    assert applicable(config) == config
    manifest = prepare(config, tokenizer, tmp_path / "some")
    assert "data.document_separator occurs in 1 of the 2 text files" in manifest.notes[-1]


# The tail of a file


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.jsonl.gz"])
def test_the_tail_of_a_file_is_its_last_documents(tmp_path, name):
    stories = [f"Story {n:02d} " + "x" * 50 for n in range(20)]
    path = tmp_path / name
    if name == "a.txt":
        path.write_text("<|end|>".join(stories))
    else:
        records = [{"text": story} for story in stories]
        content = json.dumps(records) if name == "a.json" else "\n".join(map(json.dumps, records))
        path.write_bytes(__import__("gzip").compress(content.encode()) if "gz" in name else content.encode())
    separator = "<|end|>" if name == "a.txt" else None
    config = DataConfig(path=str(path), split="tail", valid_fraction=0.12, document_separator=separator)
    splits = {split: list(texts(config, split)) for split in ("train", "valid")}
    whole = {story for story in stories for split in splits.values() if story in split}
    assert splits["train"][:17] == stories[:17] and splits["valid"][-2:] == stories[-2:]
    # At most one is cut, and nothing is lost.
    assert len(whole) >= 19 and "".join(splits["train"] + splits["valid"]) == "".join(stories)


# Long texts


@pytest.fixture
def short(monkeypatch):
    """Every text counts as long, and blocks are small."""
    monkeypatch.setattr(text_records, "LONG_CHARACTERS", 40)
    monkeypatch.setattr(long_text, "BLOCK_CHARACTERS", 16)
    monkeypatch.setattr(archives, "BLOCK_BYTES", 7)
    return monkeypatch


TEXT = "Ein längerer Text über \U0001f600 Flüsse,\nder in vielen Stücken gelesen wird.\n" * 5


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"split": "tail", "valid_fraction": 0.3},
        {"fim_rate": 1.0, "valid_fraction": 0.0, "fim_markers": ("<a>", "<b>", "<c>")},
        {"document_separator": "gelesen", "valid_fraction": 0.3, "add_bos": True},
    ],
)
def test_a_long_text_becomes_what_it_would_in_memory(tmp_path, settings, short):
    from lmjax.tokenizers.byte import ByteTokenizer

    tokenizer = ByteTokenizer({"<eos>": 256, "<bos>": 257, "<a>": 258, "<b>": 259, "<c>": 260})
    # A stray byte, and a character cut at its end.
    (tmp_path / "a.txt").write_bytes(TEXT.encode() + b" \xff " + "é".encode()[:1])
    config = DataConfig(path=str(tmp_path / "a.txt"), max_undecodable=1.0, **{"valid_fraction": 0.0, **settings})
    long = prepare(config, tokenizer, tmp_path / "long", num_workers=1)
    long_texts = "".join(texts(config))
    short.undo()
    held = prepare(config, tokenizer, tmp_path / "held", num_workers=1)
    assert long == held and long_texts == "".join(texts(config))
    assert not list((tmp_path / "long").glob("tmp*"))


def test_slices_of_long_texts(short, tmp_path):
    writer = long_text.LongTextWriter(tmp_path)
    for start in range(0, len(TEXT), 23):
        writer.write(TEXT[start : start + 23])
    text = writer.finish()
    assert len(text) == len(TEXT) and "".join(text.blocks()) == TEXT
    for begin, end in ((0, 0), (0, 16), (5, 40), (16, 32), (30, len(TEXT) + 5), (50, 20)):
        assert "".join(text[begin:end].blocks()) == TEXT[begin:end]
        assert "".join(text[3:][begin:end].blocks()) == TEXT[3:][begin:end]


def test_the_text_of_a_shard_is_the_long_one(tmp_path, tokenizer, short):
    (tmp_path / "a.txt").write_text(TEXT)
    prepare(DataConfig(path=str(tmp_path / "a.txt"), valid_fraction=0.0), tokenizer, tmp_path / "out")
    shards = open_shards(tmp_path / "out", "train")
    tokens = np.empty(shards.num_tokens, np.int32)
    shards.read_tokens(0, tokens)
    assert tokenizer.decode(tokens) == TEXT and shards.text_bytes == len(TEXT.encode())
    (piece,) = (p for unit in plan_units(find_files(DataConfig(path=str(tmp_path / "a.txt"))), 10) for p in unit)
    (document,) = read_documents(DataConfig(), piece)
    assert document.is_long and split_document(DataConfig(valid_fraction=0.0), document) == {"train": document}
