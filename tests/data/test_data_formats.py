"""What a file is is told by its first bytes: read as what it holds, or refused by the name of its format."""

import bz2
import gzip
import io
import itertools
import json
import lzma
import pickle
import sqlite3
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import zstandard

from lmjax.data.config import DataConfig
from lmjax.data.prepare import archives
from lmjax.data.prepare.documents import read_documents
from lmjax.data.prepare.sources import find_files, plan_units

TEXTS = [f'story {n}, "quoted", ü, [x], {{y}} \\ \n' for n in range(9)]
RECORDS = [{"id": n, "nested": {"list": [n, "]", "}"]}, "text": text} for n, text in enumerate(TEXTS)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
COMPRESS = {"gz": gzip.compress, "zst": zstandard.compress, "bz2": bz2.compress, "xz": lzma.compress}


def read(path, **settings):
    config = DataConfig(path=str(path), **settings)
    units = plan_units(find_files(config), 1 << 20)
    return [document.text for unit in units for piece in unit for document in read_documents(config, piece)]


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a", "a.txt", "a.gz", "a.json.xz"])
def test_lines_are_read_whatever_archive_and_name(tmp_path, name, suffix):
    content = COMPRESS[suffix](LINES)
    assert read(write(tmp_path / name, content)) == TEXTS
    assert read(write(tmp_path / name, LINES)) == TEXTS


@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_objects_is_read_record_by_record(tmp_path, monkeypatch, indent, block_bytes):
    monkeypatch.setattr(archives, "BLOCK_BYTES", block_bytes)
    whole = json.dumps(RECORDS, indent=indent, ensure_ascii=False).encode()
    assert read(write(tmp_path / "a.json", b" \n" + whole + b"\n")) == TEXTS
    with pytest.raises(ValueError, match=r"a.json: its JSON array does not end \(after 8 records\)"):
        read(write(tmp_path / "a.json", whole[: whole.rindex(b"}")]))
    with pytest.raises(ValueError, match="more after the JSON array ends"):
        read(write(tmp_path / "a.json", whole + b" " + whole))
    bad = json.dumps([RECORDS[0], {"text": 7}])
    with pytest.raises(ValueError, match="a.json, record 2: field 'text' is 7, not text"):
        read(write(tmp_path / "a.json", bad.encode()))


def test_one_object_over_several_lines_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a.json is one JSON object over several lines: .*jq -c"):
        read(write(tmp_path / "a.json", json.dumps({"data": RECORDS}, indent=1).encode()))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_a_byte_order_mark_is_no_text(tmp_path, monkeypatch, encoding, block_bytes):
    monkeypatch.setattr(archives, "BLOCK_BYTES", block_bytes)
    text = "Ein Wörtchen\n\U0001f600 zwei"
    assert read(write(tmp_path / "a.txt", text.encode(encoding))) == [text]
    assert read(write(tmp_path / "a.txt.gz", gzip.compress(text.encode(encoding)))) == [text]
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    assert read(write(tmp_path / "a.jsonl", lines.encode(encoding))) == TEXTS
    config = DataConfig(path=str(tmp_path / "a.jsonl"))
    cut = [p for unit in plan_units(find_files(config), 50) for p in unit]
    assert [d.text for piece in cut for d in read_documents(config, piece)] == TEXTS


def test_files_with_marks_may_be_put_together(tmp_path):
    halves = [json.dumps({"text": text}).encode("utf-8-sig") + b"\n" for text in ("one", "two")]
    assert read(write(tmp_path / "a.jsonl", b"".join(halves))) == ["one", "two"]
    assert read(write(tmp_path / "a.jsonl.gz", b"".join(map(gzip.compress, halves)))) == ["one", "two"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("only_ascii", [True, False])
def test_chinese_utf_16_without_a_mark_is_refused_by_name(tmp_path, encoding, only_ascii):
    """Also where each byte of it is one of ASCII, so that it is UTF-8 too."""
    characters = [chr(code) for code in range(0x4E00, 0x7E00) if not only_ascii or code % 256 < 128]
    text = "".join(np.random.default_rng(0).choice(characters, 500)) + "\u3002"
    name = encoding.replace("-", "").upper().replace("UTF", "UTF-")
    with pytest.raises(ValueError, match=f"is {name}, not UTF-8"):
        read(write(tmp_path / "a.txt", text.encode(encoding)))


@pytest.mark.parametrize("text", ["this app can break" * 9, "QUJDREVGR0hJSktMTU5PUA" * 9, "\x1b[1mbold\x1b[0m\n" * 9])
def test_ascii_that_reads_as_chinese_in_utf_16_is_text(tmp_path, text):
    assert read(write(tmp_path / "a.txt", text.encode())) == [text]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_letters_without_a_mark_are_refused_by_name(tmp_path, encoding):
    name = encoding.upper().replace("-L", "L").replace("-B", "B")
    with pytest.raises(ValueError, match=rf"a.txt is {name}, not UTF-8: convert it \(iconv -f {name}"):
        read(write(tmp_path / "a.txt", "Some plain text, as from Windows.\n".encode(encoding)))


def of(write_it):
    buffer = io.BytesIO()
    write_it(buffer)
    return buffer.getvalue()


def tar(buffer):
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())


def zipped(buffer):
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "text")


def database(tmp_path):
    connection = sqlite3.connect(tmp_path / "a.db")
    connection.execute("create table t (text)")
    connection.commit()
    connection.close()
    return (tmp_path / "a.db").read_bytes()


NOT_TEXT = {
    "a zip archive": of(zipped),
    "a tar archive": of(tar),
    "a 7z archive": b"7z\xbc\xaf\x27\x1c\x00\x04",
    "a NumPy file": of(lambda buffer: np.save(buffer, np.arange(3))),
    "a Python pickle": pickle.dumps({"text": "x"}),
    "a safetensors file": struct.pack("<Q", 16) + b'{"__metadata__":{}}',
    "a PNG image": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "a JPEG image": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "a program .ELF": b"\x7fELF\x02\x01\x01\x00",
    "a program .Windows": b"MZ\x90\x00\x03\x00\x00\x00",
    "an MP3 sound": b"ID3\x04\x00\x00\x00\x00",
}


@pytest.mark.parametrize("what", NOT_TEXT)
def test_what_is_no_text_is_refused_by_name(tmp_path, what):
    content = NOT_TEXT[what] + bytes(300)
    with pytest.raises(ValueError, match=rf"a.txt is {what}.*: (unpack|convert) .*, or leave it out"):
        read(write(tmp_path / "a.txt", content))
    with pytest.raises(ValueError, match=rf"{what}.* within a gzip file"):
        read(write(tmp_path / "a.txt.gz", gzip.compress(content)))


def test_a_database_and_an_archive_in_an_archive(tmp_path):
    with pytest.raises(ValueError, match="is an SQLite database"):
        read(write(tmp_path / "a.txt", database(tmp_path)))
    with pytest.raises(ValueError, match="is a gzip file within a xz file: decompress it once"):
        read(write(tmp_path / "a.xz", lzma.compress(gzip.compress(b"text"))))


def test_in_a_folder_the_first_is_named_and_the_others_counted(tmp_path):
    write(tmp_path / "a.txt", b"text")
    for name in ("b.txt", "c.txt"):
        write(tmp_path / name, NOT_TEXT["a PNG image"])
    with pytest.raises(ValueError, match=r"b.txt is a PNG image.*leave it out \(data.document_glob\); 1 more"):
        read(tmp_path)
    assert read(tmp_path, document_glob="a*") == ["text"]


@pytest.mark.parametrize(
    "text", ["BZh is a magic number", "MZ is one too", "PAR1\nis text", "BM", "ID3", "%!", "The ftyp"]
)
def test_text_that_begins_like_something_else_is_text(tmp_path, text):
    assert read(write(tmp_path / "a.txt", text.encode())) == [text]


# Archives


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("block_bytes", [1, 5, 1 << 20])
def test_archives_of_several_members(tmp_path, monkeypatch, suffix, block_bytes):
    monkeypatch.setattr(archives, "BLOCK_BYTES", block_bytes)
    compress = COMPRESS[suffix]
    members = [compress(b"one "), compress(b""), compress(b"two " * 50)]
    path = tmp_path / f"a.txt.{suffix}"
    assert read(write(path, b"".join(members))) == ["one " + "two " * 50]
    assert read(write(path, b"".join(members) + bytes(512))) == ["one " + "two " * 50]
    for cut in (1, len(members[2]) // 2, len(members[2]) - 1):
        with pytest.raises(ValueError, match=rf"a.txt.{suffix}: truncated .* file: fetch it again"):
            read(write(path, b"".join(members)[:-cut]))
    with pytest.raises(ValueError, match=rf"a.txt.{suffix}: after {len(members[0])} bytes .*head -c {len(members[0])}"):
        read(write(path, members[0] + b"and some garbage"))


def test_frames_of_zstandard(tmp_path):
    path = tmp_path / "a.txt.zst"
    skippable = struct.pack("<II", 0x184D2A53, 5) + b"hello"
    without_size = zstandard.ZstdCompressor(write_content_size=False).compress(b"text " * 9)
    assert read(write(path, skippable + without_size + skippable + zstandard.compress(b"more"))) == [
        "text " * 9 + "more"
    ]
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=31, enable_ldm=True)
    long = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    assert read(write(path, long.compress(b"text") + long.flush())) == ["text"]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_an_archive_that_expands_without_end_is_stopped(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(archives, "FREE_EXPANSION_BYTES", 1 << 16)
    path = write(tmp_path / f"a.txt.{suffix}", COMPRESS[suffix](b"a" * (1 << 20)))
    with pytest.raises(ValueError, match=rf"a.txt.{suffix}: .* the limit is 50 for each.*raise data.max_expansion"):
        read(path, max_expansion=50.0)
    assert len(read(path, max_expansion=1e9)[0]) == 1 << 20


def test_damage_is_called_damage(tmp_path):
    rng = np.random.default_rng(0)
    text = bytes(rng.integers(97, 123, 5000, dtype=np.uint8))
    for suffix, compress in COMPRESS.items():
        whole = compress(text)
        for place in (len(whole) // 2, len(whole) - 12):
            path = write(tmp_path / f"a.txt.{suffix}", whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            if suffix == "zst":  # Without a checksum in the frame some damage cannot be seen.
                continue
            with pytest.raises(ValueError, match=rf"a.txt.{suffix}: (damaged|truncated)"):
                read(path)


# Which files


def test_links_to_folders_are_followed_by_a_path_as_by_a_glob(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "texts" / "a.txt", b"a")
    write(tmp_path / "elsewhere" / "b.txt", b"b")
    (tmp_path / "texts" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "texts" / "round").symlink_to(tmp_path / "texts")
    assert read(tmp_path / "texts") == read(f"{tmp_path}/texts/**/*") == ["a", "b"]


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", ""])
def test_a_glob_stays_below_its_folder(pattern):
    with pytest.raises(ValueError, match="data.document_glob=.*: must name files below the folder"):
        DataConfig(path="x", document_glob=pattern)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("a.txt", {"prompt_field": "q"}, "data.prompt_field='q' names a field of JSON records, and .*a.txt is text"),
        ("a.txt", {"weight_field": "w"}, "data.weight_field='w'"),
        ("a.txt", {"text_field": "body"}, "data.text_field='body'.*or set it to text"),
        ("a.jsonl", {"document_separator": "\n\n"}, "data.document_separator=.*a.jsonl holds JSON records"),
    ],
)
def test_settings_that_no_file_has_a_use_for(tmp_path, name, settings, words):
    write(tmp_path / name, LINES if name == "a.jsonl" else b"text")
    with pytest.raises(ValueError, match=words):
        read(tmp_path / name, **settings)


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", ["\n\n", r"\n\n", "\n---\n", r"\n---\n", "\t", r"\t", r"\newpage"])
def test_separators_as_typed_and_of_windows(tmp_path, monkeypatch, separator, line_end, block_bytes):
    monkeypatch.setattr(archives, "BLOCK_BYTES", block_bytes)
    real = separator if "newpage" in separator else separator.replace(r"\n", "\n").replace(r"\t", "\t")
    parts = ["one", "two", "", "three"]
    content = real.join(parts).replace("\n", line_end).encode()
    assert read(write(tmp_path / "a.txt", content), document_separator=separator) == parts


def test_settings_do_not_depend_on_how_the_separator_was_typed():
    typed, real = (DataConfig(document_separator=text).preparation() for text in (r"\n\n", "\n\n"))
    assert typed == real


def test_many_cuts_of_one_array_and_one_file_of_lines_agree(tmp_path, monkeypatch):
    arrays = json.dumps(RECORDS).encode()
    for size, (name, content) in itertools.product((2, 16, 100), (("a.json", arrays), ("a.jsonl", LINES))):
        monkeypatch.setattr(archives, "BLOCK_BYTES", size)
        assert read(write(tmp_path / name, content)) == TEXTS
