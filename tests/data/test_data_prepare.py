"""Preparing gives the same bytes with any number of workers and any number of deaths, and guards them."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lmjax.data import verification
from lmjax.data.config import DataConfig
from lmjax.data.manifest import Manifest
from lmjax.data.prepare.prepare import prepare, prepared_key
from lmjax.data.prepare.shard_writer import ShardWriter
from lmjax.data.rows.shard_reader import open_shards
from lmjax.tokenizers import load_tokenizer
from lmjax.tokenizers.byte import ByteTokenizer

EOS, BOS = 257, 258


def contents(folder):
    """Every file that is part of the data, by name."""
    skipped = {".lock", "verified.json"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file() and path.name not in skipped
    }


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    texts = [f"document {n}: " + "naïve text " * (n % 13) for n in range(300)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path, texts


def documents_of(shards):
    tokens = np.empty(shards.num_tokens, np.int32)
    shards.read_tokens(0, tokens)
    numbers = np.empty(shards.num_tokens, np.int32)
    shards.read_segments(0, numbers)
    return [tokens[numbers == n] for n in range(1, numbers[-1] + 1)]


def test_text_to_shards_to_text(tmp_path, tokenizer, corpus):
    path, texts = corpus
    config = DataConfig(path=str(path), shard_bytes=2000, add_bos=True, valid_fraction=0.2)
    seen = []
    manifest = prepare(config, tokenizer, tmp_path / "out", num_workers=1, progress=lambda *amount: seen.append(amount))
    found = {}
    for split in ("train", "valid"):
        documents = documents_of(open_shards(tmp_path / "out", split))
        assert all(d[0] == BOS and d[-1] == EOS for d in documents)
        found[split] = [tokenizer.decode(d[1:-1]) for d in documents]
        assert manifest.total(split, "documents") == len(documents)
        assert manifest.total(split, "text_bytes") == sum(len(text.encode()) for text in found[split])
    assert not set(found["train"]) & set(found["valid"])
    in_train = set(found["train"])
    assert found["train"] == [text for text in texts if text in in_train]
    assert found["valid"] == [text for text in texts if text not in in_train]
    assert len([s for s in manifest.shards if s.split == "train"]) > 11
    size = path.stat().st_size
    assert seen[0] == (0, size) and seen[-1] == (size, size) and seen == sorted(seen)
    assert load_tokenizer(tmp_path / "out" / "tokenizer").fingerprint == tokenizer.fingerprint


def test_the_number_of_workers_changes_nothing(tmp_path, tokenizer, corpus):
    config = DataConfig(path=str(corpus[0]), shard_bytes=10_000)
    amounts = []
    for workers in (1, 2):
        progress = lambda *amount: amounts.append(amount)  # noqa: E731
        prepare(config, tokenizer, tmp_path / str(workers), num_workers=workers, progress=progress)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert amounts[-1][0] == amounts[-1][1] == corpus[0].stat().st_size


KILLED = """
import multiprocessing, os, signal
from lmjax.data.config import DataConfig
from lmjax.data.prepare.prepare import prepare
from lmjax.tokenizers.byte import ByteTokenizer

def progress(done, total):
    if done > {fraction} * total:
        if {workers} > 1:
            print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    tokenizer = ByteTokenizer({{"<pad>": 256, "<eos>": 257, "<bos>": 258}})
    config = DataConfig(path={path!r}, shard_bytes=3000)
    prepare(config, tokenizer, {folder!r}, num_workers={workers}, progress=progress)
"""


def run_killed(tmp_path, **values):
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(**values))
    root = pathlib.Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout


@pytest.mark.processes
def test_killed_twice_and_resumed_gives_the_same_bytes(tmp_path, tokenizer, corpus):
    config = DataConfig(path=str(corpus[0]), shard_bytes=3000)
    prepare(config, tokenizer, tmp_path / "whole", num_workers=1)
    folder = tmp_path / "resumed"
    for fraction in (0.3, 0.7):
        run_killed(tmp_path, fraction=fraction, path=str(corpus[0]), folder=str(folder), workers=1)
        assert not (folder / "manifest.json").exists()
        with pytest.raises(ValueError, match=r"manifest.json: not found.*lmjax prepare"):
            open_shards(folder, "train")
    assert list(folder.glob(".*.partial"))
    finished = {path.name: path.stat().st_mtime_ns for path in folder.glob("train-*.bin")}
    assert len(finished) > 3
    seen = []
    prepare(config, tokenizer, folder, num_workers=1, progress=lambda done, total: seen.append(done / total))
    assert 0.5 < seen[0] < 0.75
    assert finished.items() <= {p.name: p.stat().st_mtime_ns for p in folder.glob("train-*.bin")}.items()
    assert contents(folder) == contents(tmp_path / "whole")


@pytest.mark.processes
def test_workers_end_with_a_killed_parent(tmp_path, corpus):
    folder = tmp_path / "out"
    printed = run_killed(tmp_path, fraction=0.0, path=str(corpus[0]), folder=str(folder), workers=2)
    children = [int(pid) for pid in printed.split()]
    assert len(children) >= 2

    def alive(pid):
        try:
            return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    deadline = time.monotonic() + 10
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, children))


def test_a_finished_folder_is_kept_and_guarded(tmp_path, tokenizer, corpus):
    config = DataConfig(path=str(corpus[0]))
    folder = tmp_path / "out"
    manifest = prepare(config, tokenizer, folder)
    before = (folder / "train-00000.bin").stat().st_mtime_ns
    assert prepare(config, tokenizer, folder) == manifest == Manifest.load(folder)
    assert (folder / "train-00000.bin").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"prepared with another data.add_eos \(True, now False\)"):
        prepare(DataConfig(path=str(corpus[0]), add_eos=False), tokenizer, folder)
    other = ByteTokenizer({"<eos>": 256})
    with pytest.raises(ValueError, match="prepared with another tokenizer"):
        prepare(config, other, folder)
    keys = {prepared_key(config, tokenizer.vocabulary), prepared_key(config, other.vocabulary)}
    with open(corpus[0], "a") as file:
        file.write('{"text": "more"}\n')
    keys.add(prepared_key(config, tokenizer.vocabulary))
    assert len(keys) == 3
    with pytest.raises(ValueError, match="prepared with another source bytes"):
        prepare(config, tokenizer, folder)


def test_a_failed_preparation_can_be_corrected(tmp_path, tokenizer, corpus):
    path, texts = corpus
    whole = path.read_text()
    path.write_text(whole + "broken\n")
    config = DataConfig(path=str(path), shard_bytes=4000)
    with pytest.raises(ValueError, match=rf"line {len(texts) + 1}: not valid JSON"):
        prepare(config, tokenizer, tmp_path / "out", num_workers=1)
    assert list((tmp_path / "out").glob("train-*.bin"))
    path.write_text(whole)
    prepare(config, tokenizer, tmp_path / "out", num_workers=1)
    prepare(config, tokenizer, tmp_path / "fresh", num_workers=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_folder_with_other_things_is_left_alone(tmp_path, tokenizer, corpus):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty and holds no preparation"):
        prepare(DataConfig(path=str(corpus[0])), tokenizer, tmp_path)


def test_empty_corpus_and_empty_split(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ""}\n' * 3)
    with pytest.raises(ValueError, match="corpus is empty: no document has any text"):
        prepare(DataConfig(path=str(path)), tokenizer, tmp_path / "out")
    path.write_text('{"text": "only one"}\n')
    with pytest.raises(ValueError, match=r"none is for \w+ at data.valid_fraction=0.05: set data.split=tail"):
        prepare(DataConfig(path=str(path)), tokenizer, tmp_path / "out")


def test_a_tokenizer_without_eos_is_refused_before_anything_is_written(tmp_path, corpus):
    with pytest.raises(ValueError, match=r"data.add_eos=True needs a 'eos' token"):
        prepare(DataConfig(path=str(corpus[0])), ByteTokenizer({}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_undecodable_bytes_are_in_the_manifest(tmp_path, tokenizer):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.txt").write_bytes(b"abc\xff\xff def")
    (tmp_path / "in" / "good.txt").write_bytes(b"abc def")
    config = DataConfig(path=str(tmp_path / "in"), valid_fraction=0.0)
    with pytest.raises(
        ValueError, match=r"2 of 16 bytes are not UTF-8 \(2 of them in bad.txt\): .*max_undecodable=0.01"
    ):
        prepare(config, tokenizer, tmp_path / "out")
    config = DataConfig(path=str(tmp_path / "in"), valid_fraction=0.0, max_undecodable=0.125)
    assert prepare(config, tokenizer, tmp_path / "out").undecodable == {"bad.txt": 2}


def test_loss_weights_reach_the_shards(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    records = [{"q": "ask", "text": "yes", "w": 0.5}, {"q": "why", "text": ["so", "!"], "w": [0.3, 2]}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = DataConfig(path=str(path), prompt_field="q", weight_field="w", add_bos=True, valid_fraction=0.0)
    prepare(config, tokenizer, tmp_path / "out")
    shards = open_shards(tmp_path / "out", "train")
    weights = np.empty(shards.num_tokens, np.float32)
    shards.read_weights(0, weights)
    expected = [0, 0, 0, 0, 0.5, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0.3, 0.3, 2, 2]
    np.testing.assert_array_equal(weights, np.asarray(expected, np.float16).astype(np.float32))


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_truncated_and_flipped_shards_are_named(tmp_path, tokenizer, corpus, suffix):
    folder = tmp_path / "out"
    prepare(DataConfig(path=str(corpus[0])), tokenizer, folder)
    open_shards(folder, "train")
    path = folder / f"train-00000.{suffix}"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=rf"train-00000.{suffix}: has {len(whole) - 1} bytes and should have"):
        open_shards(folder, "train", verify="never")
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(ValueError, match=rf"train-00000.{suffix}: damaged"):
        open_shards(folder, "train")
    path.unlink()
    with pytest.raises(ValueError, match=rf"train-00000.{suffix}: is missing"):
        open_shards(folder, "train")


@pytest.mark.parametrize("verify", ["sample", "always"])
def test_rot_is_found_though_size_and_time_stay(tmp_path, tokenizer, corpus, verify):
    """Every one of 19 flips: a split below the sample's size is read whole at each start."""
    folder = tmp_path / "out"
    prepare(DataConfig(path=str(corpus[0])), tokenizer, folder)
    open_shards(folder, "train")
    path = folder / "train-00000.bin"
    whole, status = path.read_bytes(), path.stat()
    for number in range(19):
        place = number * len(whole) // 19
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(ValueError, match="train-00000.bin: damaged"):
            open_shards(folder, "train", verify=verify)
        open_shards(folder, "train", verify="never")
    path.write_bytes(whole)
    open_shards(folder, "train")


def test_of_a_large_split_a_sample_is_read_and_what_is_new(tmp_path, tokenizer, corpus, monkeypatch):
    folder = tmp_path / "out"
    manifest = prepare(DataConfig(path=str(corpus[0]), shard_bytes=1000), tokenizer, folder)
    sizes = {name: r.size for s in manifest.shards if s.split == "train" for name, r in s.files.items()}
    monkeypatch.setattr("lmjax.data.verification.SAMPLE_BYTES", sum(sizes.values()) // 4)
    read = []
    right = verification.sha256_of
    monkeypatch.setattr("lmjax.data.verification.sha256_of", lambda path: read.append(path.name) or right(path))
    open_shards(folder, "train")
    assert sorted(read) == sorted(sizes)
    seen = set()
    for _ in range(60):
        read.clear()
        open_shards(folder, "train")
        share = sum(sizes[name] for name in read) / sum(sizes.values())
        assert 0.25 <= share < 0.25 + max(sizes.values()) / sum(sizes.values())
        seen |= set(read)
    assert seen == set(sizes)


def test_a_shard_cut_while_it_is_read_is_an_error(tmp_path, tokenizer, corpus):
    folder = tmp_path / "out"
    prepare(DataConfig(path=str(corpus[0])), tokenizer, folder)
    shards = open_shards(folder, "train")
    os.truncate(folder / "train-00000.bin", 10)
    with pytest.raises(ValueError, match=r"train-00000.bin: cut short"):
        shards.read_tokens(0, np.empty(100, np.int32))


def test_another_tokenizer_or_a_missing_split_is_refused(tmp_path, tokenizer, corpus):
    folder = tmp_path / "out"
    prepare(DataConfig(path=str(corpus[0]), valid_fraction=0.0), tokenizer, folder)
    open_shards(folder, "train", tokenizer_fingerprint=tokenizer.fingerprint)
    with pytest.raises(ValueError, match="made with another tokenizer"):
        open_shards(folder, "train", tokenizer_fingerprint="0" * 64)
    with pytest.raises(ValueError, match="no 'valid' data, only train"):
        open_shards(folder, "valid")


@pytest.mark.parametrize("content", ["", "{}", '{"format": 99}', '{"format": 1}', "[]"])
def test_damaged_manifests_are_named(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest.json: (damaged|not of format)"):
        open_shards(tmp_path, "train")


@pytest.mark.parametrize("vocabulary_size,dtype", [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_token_type_holds_the_largest_id(tmp_path, vocabulary_size, dtype):
    writer = ShardWriter(tmp_path, "train-00000", split="train", vocabulary_size=vocabulary_size, weighted=False)
    writer.add([0, vocabulary_size - 1])
    with pytest.raises(ValueError, match=f"ids from 0 to {vocabulary_size}"):
        writer.add([0, vocabulary_size])
    writer.finish()
    assert np.fromfile(tmp_path / "train-00000.bin", dtype).tolist() == [0, vocabulary_size - 1]
