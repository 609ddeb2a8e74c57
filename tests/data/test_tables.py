"""Tables, nested fields, templates, addresses, and texts cut at separators: the documents are those of the whole."""

import contextlib
import json

import fsspec
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from lmjax.cli import inspect
from lmjax.data.config import DataConfig
from lmjax.data.prepare import text_records
from lmjax.data.prepare.documents import read_documents
from lmjax.data.prepare.prepare import prepare
from lmjax.data.prepare.sources import find_files, plan_units
from lmjax.data.rows.shard_reader import open_shards
from lmjax.data.tally import Tally

TEXTS = [f"story {n}, ü\n" * (1 + n % 4) for n in range(40)]
RECORDS = [{"id": n, "message": {"text": text, "parts": [{"t": "x"}, {"t": text}]}} for n, text in enumerate(TEXTS)]


def read(path, *, unit=1 << 20, tally=None, **settings):
    config = DataConfig(path=str(path), **settings)
    pieces = [piece for part in plan_units(find_files(config), unit) for piece in part]
    return [document.text for piece in pieces for document in read_documents(config, piece, tally=tally)], len(pieces)


def parquet(path, records=RECORDS, **options):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(records), path, **{"row_group_size": 7, **options})
    return path


def saved_dataset(folder):
    """A folder as ``datasets`` saves one."""
    arrow = pytest.importorskip("pyarrow")
    folder.mkdir()
    table = arrow.Table.from_pylist(RECORDS)
    with arrow.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    (folder / "dataset_info.json").write_text('{\n  "features": {}\n}')
    (folder / "state.json").write_text('{\n  "_data_files": []\n}')
    return folder


def array_records(path, encode=lambda record: json.dumps(record).encode()):
    writer = ArrayRecordWriter(str(path), "group_size:4")
    for record in RECORDS:
        writer.write(encode(record))
    writer.close()
    return path


def test_tables_are_read_whole_and_in_parts(tmp_path):
    for path in (
        parquet(tmp_path / "a.parquet"),
        saved_dataset(tmp_path / "saved"),
        array_records(tmp_path / "a.array_record"),
    ):
        whole, _ = read(path, text_field="message.text")
        assert whole == TEXTS
        parts, count = read(path, unit=300, text_field="message.text")
        assert parts == TEXTS and (count > 3 or path.suffix == "")
        assert read(path, text_field="message.parts.1.t")[0] == TEXTS
        assert read(path, template=r"{id}: {{{message.text}}}\n")[0][3] == f"3: {{{TEXTS[3]}}}\n"
    texts = array_records(tmp_path / "b.array_record", lambda record: record["message"]["text"].encode())
    assert read(texts)[0] == TEXTS


def test_ids_of_documents_are_kept_with_their_tokens(tmp_path, tokenizer, capsys):
    path = parquet(tmp_path / "a.parquet")
    config = DataConfig(path=str(path), text_field="message.text", id_field="id", valid_fraction=0.0, shard_bytes=400)
    prepare(config, tokenizer, tmp_path / "data", num_workers=1)
    shards = open_shards(tmp_path / "data", "train")
    assert len(shards.shards) > 2
    place = 0
    for number, text in enumerate(TEXTS):
        size = len(text.encode()) + 1
        assert shards.document_ids(place, size) == [str(number)]
        if number + 1 < len(TEXTS):
            assert shards.document_ids(place, size + 1) == [str(number), str(number + 1)]
        place += size
    inspect.run([str(tmp_path / "data"), "--sequence-length", "40", "--rows", "1"])
    assert "documents of row 0: " in capsys.readouterr().out
    with pytest.raises(ValueError, match="row 0: field 'message' is .* not an id"):
        read(path, text_field="message.text", id_field="message")


def test_a_table_that_lacks_a_column_or_holds_no_text_is_refused_by_row(tmp_path):
    path = parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet: no column 'text' \(it has 'id', 'message'\): set"):
        read(path)
    with pytest.raises(ValueError, match="a.parquet, row 0: field 'id' is 0, not text"):
        read(path, text_field="id")
    gap = parquet(tmp_path / "b.parquet", [{"text": "a"}, {"text": None}, {"text": "b"}])
    tally = Tally()
    assert read(gap, bad_records="skip", tally=tally)[0] == ["a", "b"]
    assert tally.bad_records == 1 and "row 1: field 'text' is null" in tally.bad_places[0]
    with pytest.raises(ValueError, match=r"document_separator=.* divides text files, and .*b.parquet holds rows"):
        read(gap, document_separator="%%")
    tail = read(gap.with_name("a.parquet"), text_field="message.text", split="tail", valid_fraction=0.25)[0]
    assert tail == TEXTS


@pytest.mark.parametrize("seed", range(3))
def test_damaged_tables_give_their_texts_or_a_message(tmp_path, seed):
    """A flipped bit or a cut never ends in another error; with checksums of pages no text changes unnoticed."""
    rng = np.random.default_rng(seed)
    paths = [
        parquet(tmp_path / "a.parquet", compression="zstd", write_page_checksum=True),
        saved_dataset(tmp_path / "saved") / "data-00000-of-00001.arrow",
        array_records(tmp_path / "a.array_record"),
    ]
    for path in paths:
        content = path.read_bytes()
        for place in rng.integers(100, len(content) - 100, 12).tolist():
            flipped = bytes([content[place] ^ 1 << int(rng.integers(8))])
            path.write_bytes(content[:place] + flipped + content[place + 1 :])
            with contextlib.suppress(ValueError):
                texts = read(path, text_field="message.text", bad_records="skip")[0]
                assert path.suffix != ".parquet" or texts == TEXTS
        path.write_bytes(content[: len(content) // 2])
        with contextlib.suppress(ValueError):
            assert read(path, text_field="message.text")[0] == TEXTS[: len(TEXTS) // 2] or path.suffix == ".arrow"


def test_an_address_is_read_like_a_folder(tmp_path, tokenizer):
    memory = fsspec.filesystem("memory")
    for number in range(3):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS[number::3])
        memory.pipe(f"/corpus/{number}.jsonl", lines.encode())
        (tmp_path / f"{number}.jsonl").write_text(lines)
    memory.pipe("/corpus/notes.md", b"not this one")
    expected = read(tmp_path)[0]
    for path, options in (
        ("memory://corpus/*.jsonl", {}),
        ("memory://corpus", {"document_glob": "**/*.jsonl"}),
    ):
        assert read(path, **options)[0] == expected
        assert read(path, unit=100, **options)[0] == expected
    assert read("memory://corpus/1.jsonl")[0] == TEXTS[1::3]
    config = DataConfig(path="memory://corpus/*.jsonl", split="tail", valid_fraction=0.1)
    first = prepare(config, tokenizer, tmp_path / "a", num_workers=1)
    local = DataConfig(path=str(tmp_path / "*.jsonl"), split="tail", valid_fraction=0.1)
    assert first.fingerprint == prepare(local, tokenizer, tmp_path / "b", num_workers=1).fingerprint
    memory.pipe("/corpus/0.jsonl", b'{"text": "other"}\n')
    with pytest.raises(ValueError, match="holds data prepared with another source"):
        prepare(config, tokenizer, tmp_path / "a", num_workers=1)
    with pytest.raises(ValueError, match="memory://corpus/none.jsonl.*no file there"):
        read("memory://corpus/none.jsonl")
    with pytest.raises(ValueError, match="nosuch://x: .*nosuch"):
        read("nosuch://x")


@pytest.mark.parametrize("separator", ["%%\n", "\n\n", "aa", "\n", "aba"])
def test_a_text_cut_anywhere_has_the_documents_of_the_whole(tmp_path, monkeypatch, separator):
    """Also where separators overlap themselves, follow each other, or end with lines of Windows."""
    monkeypatch.setattr(text_records, "_BACK_BYTES", 3)
    rng = np.random.default_rng(len(separator))
    for number in range(12):
        pieces = rng.choice(["x", "é", "\n", "\r\n", "a", "b", "%", separator, separator], 60)
        content = "".join(pieces) + separator
        (tmp_path / "a.txt").write_bytes(content.encode())
        tally, parts = Tally(), Tally()
        whole, _ = read(tmp_path / "a.txt", document_separator=separator, tally=tally)
        cut, count = read(tmp_path / "a.txt", unit=1 + number, document_separator=separator, tally=parts)
        assert cut == whole and count > 3
        assert (parts.text_files, parts.separated_files, parts.content_bytes) == (1, 1, tally.content_bytes)


def test_a_file_without_separators_is_cut_at_line_ends_if_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(text_records, "_BACK_BYTES", 3)
    rng = np.random.default_rng(0)
    for number in range(12):
        content = "".join(rng.choice(["x", "é", "\n", "\r\n", "a longer piece of a line"], 60))
        (tmp_path / "a.txt").write_bytes(content.encode())
        assert read(tmp_path / "a.txt", unit=1 + 9 * number) == ([content], 1)
        parts, count = read(tmp_path / "a.txt", unit=1 + 9 * number, cut_files=True)
        assert "".join(parts) == content and len(parts) > 1 and count > 1
        assert all(part.endswith("\n") for part in parts[:-1])
        tail = read(tmp_path / "a.txt", unit=1 + 9 * number, cut_files=True, split="tail", valid_fraction=0.5)
        assert tail == (parts, count)
    with pytest.raises(ValueError, match="data.cut_files is for text without"):
        DataConfig(cut_files=True, document_separator="%%")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("none", "names no field"),
        ("{}", "only names"),
        ("{a!r}", "only names"),
        ("{a:>3}", "only names"),
        ("{a", "braces"),
    ],
)
def test_templates_name_fields_and_nothing_else(template, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(template=template)
    with pytest.raises(ValueError, match="data.template and data.text_field='x' are both given"):
        DataConfig(template="{a}", text_field="x")
