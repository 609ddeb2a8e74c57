"""Files are found in one order, read exactly once, and never half read in silence."""

import gzip
import json
import sys

import pytest
import zstandard

from lmjax.data.config import DataConfig
from lmjax.data.prepare import archives as documents_module
from lmjax.data.prepare.documents import Document, read_documents, split_document, texts
from lmjax.data.prepare.sources import Piece, find_files, fingerprint, plan_units


def read_all(config, shard_bytes=1 << 20):
    units = plan_units(find_files(config), shard_bytes)
    return [document for unit in units for piece in unit for document in read_documents(config, piece)]


def write_json_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_stdlib_is_python_without_tests():
    files = find_files(DataConfig())
    names = [file.name for file in files]
    assert names == sorted(names) and len(names) > 300
    assert "argparse.py" in names and not any(n.startswith(("test/", "site-packages/")) for n in names)
    assert fingerprint(files) == fingerprint(find_files(DataConfig(path="stdlib")))


def test_folder_glob_and_file(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("z.txt", "b/a.txt", "a.md", ".hidden/x.txt"):
        (tmp_path / name).write_text(name)
    assert [f.name for f in find_files(DataConfig(path=str(tmp_path)))] == ["a.md", "b/a.txt", "z.txt"]
    config = DataConfig(path=str(tmp_path), document_glob="**/*.txt")
    assert list(texts(DataConfig(path=str(tmp_path), document_glob="**/*.txt", valid_fraction=0.0))) == [
        "b/a.txt",
        "z.txt",
    ]
    assert [f.name for f in find_files(config)] == ["b/a.txt", "z.txt"]
    assert [f.name for f in find_files(DataConfig(path=f"{tmp_path}/**/*.txt"))] == ["b/a.txt", "z.txt"]
    assert [f.name for f in find_files(DataConfig(path=f"{tmp_path}/z.txt"))] == ["z.txt"]


@pytest.mark.parametrize("path", ["nowhere", "nowhere/*.txt"])
def test_nothing_there(tmp_path, path):
    with pytest.raises(ValueError, match=r"data.path=.*no file there"):
        find_files(DataConfig(path=str(tmp_path / path)))


def test_empty_files_are_an_empty_corpus(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="corpus is empty"):
        find_files(DataConfig(path=str(tmp_path)))


@pytest.mark.parametrize("shard_bytes", [1, 7, 23, 64, 1 << 20])
def test_every_record_is_in_one_piece_however_the_file_is_cut(tmp_path, shard_bytes):
    records = [{"text": "x" * (n * 7 % 41), "n": n} for n in range(40)]
    path = write_json_lines(tmp_path / "a.jsonl", records)
    path.write_text(path.read_text().rstrip("\n"))
    found = read_all(DataConfig(path=str(path)), shard_bytes)
    assert [d.text for d in found] == [r["text"] for r in records]


def test_of_a_large_corpus_pieces_all_over_it_are_read(tmp_path):
    for number in range(4):
        write_json_lines(tmp_path / f"{number}.jsonl", [{"text": f"{number} {n:04}"} for n in range(500)])
    config = DataConfig(path=str(tmp_path), valid_fraction=0.0)
    total = sum(file.size for file in find_files(config))
    everything, some = list(texts(config)), list(texts(config, most_bytes=total // 4, seed=1))
    assert list(texts(config, most_bytes=total)) == everything
    assert 0.2 < len(some) / len(everything) < 0.3 and len(set(some)) == len(some)
    assert some == [text for text in everything if text in set(some)] and some != everything[: len(some)]
    assert {text[0] for text in some} == set("0123") and {text[3] for text in some} == set("01234")
    assert some == list(texts(config, most_bytes=total // 4, seed=1)) != list(texts(config, most_bytes=total // 4))


def test_units_join_small_files(tmp_path):
    for n in range(10):
        (tmp_path / f"{n}.txt").write_text("x" * 10)
    units = plan_units(find_files(DataConfig(path=str(tmp_path))), 30)
    assert [len(unit) for unit in units] == [3, 3, 3, 1]


@pytest.mark.parametrize("block_bytes", [1, 3, 1 << 20])
def test_compressed_files_and_separators(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(documents_module, "BLOCK_BYTES", block_bytes)
    content = "first<|end|>second é<|end|><|en<|end|>d|>last".encode()
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(content))
    frames = zstandard.compress(content[:20]) + zstandard.compress(content[20:])
    (tmp_path / "c.txt.zst").write_bytes(frames)
    found = read_all(DataConfig(path=str(tmp_path), document_separator="<|end|>"))
    assert [d.text for d in found] == ["first", "second é", "<|en", "d|>last"] * 3


@pytest.mark.parametrize("suffix,compress", [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_truncated_and_damaged_archives_are_refused(tmp_path, suffix, compress):
    whole = compress(b'{"text": "some text"}\n' * 1000)
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(whole)
    assert len(read_all(DataConfig(path=str(path)))) == 1000
    for broken in (whole[:-5], b"no archive at all"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"a.jsonl.{suffix}: (truncated|damaged)"):
            read_all(DataConfig(path=str(path)))


def test_missing_zstandard_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"text"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ValueError, match=r"pip install lmjax\[data\]"):
        read_all(DataConfig(path=str(tmp_path)))


def test_undecodable_bytes_are_counted_or_refused(tmp_path):
    path = tmp_path / "a.txt"
    # Two stray bytes, a literal U+FFFD (which is text), and a cut three-byte character.
    path.write_bytes(b"ab\xff\xfec" + "\ufffd".encode() + b"d\xe2\x82")
    (document,) = read_all(DataConfig(path=str(path)))
    assert document.text == "ab\ufffd\ufffdc\ufffdd\ufffd"
    assert document.undecodable_bytes == 4
    with pytest.raises(ValueError, match=r"a.txt: byte 0xff at offset 2 .*decode_errors=replace"):
        read_all(DataConfig(path=str(path), decode_errors="strict"))


def test_half_characters_in_json(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\ud800b\\ud83d\\ude00"}\n')
    (document,) = read_all(DataConfig(path=str(path)))
    assert (document.text, document.undecodable_bytes) == ("a\ufffdb\U0001f600", 1)
    with pytest.raises(ValueError, match=r"line 1: .*surrogate"):
        read_all(DataConfig(path=str(path), decode_errors="strict"))


@pytest.mark.parametrize(
    "line,message",
    [
        ('{"text": "cut', "not valid JSON"),
        ('["text"]', "a JSON list, not an object"),
        ('{"body": "x"}', r"no field 'text' \(it has 'body'\): set data.text_field"),
        ('{"text": 7}', "field 'text' is 7, not text"),
    ],
)
@pytest.mark.parametrize("shard_bytes", [8, 1 << 20])
def test_bad_lines_are_named(tmp_path, line, message, shard_bytes):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n\n{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ValueError, match=f"a.jsonl, line 4: {message}"):
        read_all(DataConfig(path=str(path)), shard_bytes)


def test_prompts_and_weights(tmp_path):
    path = write_json_lines(tmp_path / "a.jsonl", [{"q": "ask", "text": "answer"}])
    (document,) = read_all(DataConfig(path=str(path), prompt_field="q"))
    assert document.parts == (("ask", 0.0), ("answer", 1.0))
    records = [{"text": "a", "w": 0.25}, {"text": ["a", "b"], "w": [0, 2]}]
    path = write_json_lines(tmp_path / "b.jsonl", records)
    found = read_all(DataConfig(path=str(path), weight_field="w"))
    assert [d.parts for d in found] == [(("a", 0.25),), (("a", 0.0), ("b", 2.0))]


@pytest.mark.parametrize(
    "record,message",
    [
        ({"text": "a", "w": -1}, "field 'w' is -1: a loss weight"),
        ({"text": "a", "w": True}, "field 'w' is true"),
        ({"text": "a", "w": "1"}, "field 'w' is \"1\""),
        ({"text": "a", "w": [1, 2]}, "must be a list of 2 texts"),
        ({"text": "a"}, "no field 'w'"),
    ],
)
def test_bad_weights_are_named(tmp_path, record, message):
    path = write_json_lines(tmp_path / "a.jsonl", [record])
    with pytest.raises(ValueError, match=f"line 1: .*{message}"):
        read_all(DataConfig(path=str(path), weight_field="w"))


def test_split_by_document_keeps_copies_together():
    config = DataConfig(valid_fraction=0.3)
    splits = {}
    for n in range(2000):
        (split,) = split_document(config, Document(name="x", parts=((f"text {n}", 1.0),)))
        (again,) = split_document(config, Document(name="y", parts=((f"text {n}", 1.0),)))
        assert split == again
        splits[n] = split
    share = sum(split == "valid" for split in splits.values()) / 2000
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 2000) ** 0.5


def test_tail_split_is_nanogpts():
    text = "".join(chr(97 + n % 26) for n in range(1003))
    shares = split_document(DataConfig(split="tail", valid_fraction=0.1), Document(name="x", parts=((text, 1.0),)))
    assert shares["train"].text == text[: int(1003 * 0.9)]
    assert shares["valid"].text == text[int(1003 * 0.9) :]


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"valid_fraction": 1.0}, "data.valid_fraction=1.0"),
        ({"packing": "bins"}, "data.packing='bins': use one of windows"),
        ({"mixture": ("a",)}, "data.mixture_weights has 0 values"),
        ({"mixture": ("a",), "mixture_weights": (0.0,)}, "weights must be above 0"),
        ({"path": ""}, "data.path"),
        ({"document_separator": ""}, "data.document_separator"),
        ({"shard_bytes": 0}, "data.shard_bytes"),
    ],
)
def test_bad_config_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**arguments)


def test_piece_beyond_a_long_line_is_empty(tmp_path):
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": "x" * 100}, {"text": "y"}])
    (file,) = find_files(DataConfig(path=str(path)))
    pieces = [Piece(file=file, begin=b, end=b + 30) for b in (30, 60)]
    assert [list(read_documents(DataConfig(path=str(path)), piece)) for piece in pieces] == [[], []]
