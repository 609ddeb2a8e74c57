"""Prepared data in object storage: the same rows as from a folder, through a cache that is bounded and verified."""

import concurrent.futures
import contextlib
import dataclasses
import errno
import hashlib
import os
import pathlib
import random
import shutil

import numpy as np
import pytest
from servers import address, servers  # noqa: F401

from lmjax.data.config import DataConfig
from lmjax.data.manifest import MANIFEST, Manifest
from lmjax.data.mixing import Source
from lmjax.data.prepare.prepare import prepare
from lmjax.data.publish import publish
from lmjax.data.rows.opening import open_rows
from lmjax.data.rows.pipeline import batches
from lmjax.data.rows.shard_reader import open_shards
from lmjax.data.stored import local_folder, place_of
from lmjax.remote import file_cache
from lmjax.remote.bucket import Bucket, RemoteError
from lmjax.remote.file_cache import FETCHING, FetchError, FileCache
from lmjax.tokenizers import TokenizerConfig
from lmjax.tokenizers.byte import ByteTokenizer
from lmjax.train.open_corpus import open_corpus

TOKENIZER = TokenizerConfig(kind="bytes", special_tokens=("<pad>", "<eos>"))
CONTENT = {f"file{number}": bytes([number]) * 1000 for number in range(6)}
KEYS = {name: {"sha256": hashlib.sha256(content).hexdigest(), "size": 1000} for name, content in CONTENT.items()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of the cache, which is empty; a storage that does not answer is not waited for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(file_cache, "RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(file_cache, "_TOUCH_SECONDS", 0.0)
    return tmp_path / "cache" / "lmjax" / "data" / "shards"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A recipe and its prepared folder of many shards."""
    folder = tmp_path_factory.mktemp("stored")
    rng = random.Random(0)
    lines = [" ".join(rng.choices(["alpha", "beta", "gamma", "delta"], k=rng.randint(3, 60))) for _ in range(120)]
    (folder / "text.txt").write_text("|".join(lines))
    config = DataConfig(
        path=str(folder / "text.txt"), document_separator="|", valid_fraction=0.2, shard_bytes=2000,
        prepared=str(folder / "data"),
    )  # fmt: skip
    prepare(config, ByteTokenizer({"<pad>": 256, "<eos>": 257}), folder / "data", num_workers=1)
    return config


@pytest.fixture
def stored(prepared, servers):  # noqa: F811
    """The same recipe with the address of a copy of its data."""
    place = f"{servers('memory')}/{os.urandom(4).hex()}"
    publish(pathlib.Path(prepared.prepared), place)
    return dataclasses.replace(prepared, prepared=place)


@pytest.fixture
def objects():
    """A bucket with six files of 1000 bytes."""
    bucket = Bucket(f"memory://bucket/{os.urandom(4).hex()}")
    for name, content in CONTENT.items():
        bucket.write(name, content)
    return bucket


@pytest.fixture
def downloads(monkeypatch):
    """The names of the files that are fetched; an error or a change may be put into ``faults``."""
    names, faults, download = [], {}, Bucket.download

    def counted(self, name, path):
        names.append(name)
        if error := faults.get("error"):
            with self._errors(name):
                raise error
        download(self, name, path)
        if faults.get("flips", 0) > 0:
            faults["flips"] -= 1
            path.write_bytes(path.read_bytes()[:-1] + b"?")

    monkeypatch.setattr(Bucket, "download", counted)
    names_and_faults = type("Downloads", (), {"names": names, "faults": faults})
    return names_and_faults()


def read(cache, bucket, name):
    with cache.opened(bucket, name, **KEYS[name]) as file:
        return file.read()


def kept(folder):
    return {name for name, key in KEYS.items() if (folder / key["sha256"]).exists()}


@pytest.mark.parametrize("packing", ["windows", "segments", "best_fit", "examples", "streams"])
def test_rows_are_those_of_the_folder(prepared, stored, packing):
    here, there = (
        open_rows(dataclasses.replace(config, packing=packing), "train", row_length=32, seed=3, num_streams=2)
        for config in (prepared, stored)
    )
    indices = range(5, min(len(here), 40))
    for one, other in zip(
        dataclasses.astuple(here.rows(indices)), dataclasses.astuple(there.rows(indices)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_rows_on_a_server(prepared, address):  # noqa: F811
    publish(pathlib.Path(prepared.prepared), address)
    corpus = open_corpus(dataclasses.replace(prepared, prepared=address), TOKENIZER)
    expected = open_rows(prepared, "valid", row_length=32, seed=None).rows(range(6))
    found = corpus.rows("valid", row_length=32, seed=None).rows(range(6))
    np.testing.assert_array_equal(found.tokens_BT, expected.tokens_BT)


def test_the_first_batch_fetches_its_own_shards_only(stored, downloads):
    rows = open_rows(stored, "train", row_length=32, seed=0)
    assert not downloads.names
    rows.rows(range(2))
    assert 1 <= len(downloads.names) <= 4 < len(rows.shards.shards)


def test_a_small_cache_gives_the_same_batches_and_stays_small(prepared, stored, downloads, cache, monkeypatch):
    files = [record.size for shard in Manifest.load(prepared.prepared).shards for record in shard.files.values()]
    most = 3 * max(files)
    seen = []
    replace = file_cache.take_name

    def measured(partial, path):
        replace(partial, path)
        sizes = []
        for path in list(cache.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                sizes.append(path.stat().st_size * (len(path.name) == 64))
        seen.append(sum(sizes))

    monkeypatch.setattr(file_cache, "take_name", measured)
    small = dataclasses.replace(stored, cache_gigabytes=most / 1e9, packing="segments")
    assert small.threads == 8 and prepared.threads == 0
    expected = batches(
        open_rows(dataclasses.replace(prepared, packing="segments"), "train", row_length=32, seed=0),
        global_batch_size=4,
        num_rows=80,
    )
    found = batches(
        open_rows(small, "train", row_length=32, seed=0), global_batch_size=4, num_rows=80, num_threads=small.threads
    )
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one.tokens_BT, other.tokens_BT)
    assert len(downloads.names) > len(files) / 2
    # The sizes are of different moments: one file may have taken the place of another in between.
    assert (
        max(seen) <= most + max(files) and sum(p.stat().st_size for p in cache.iterdir() if len(p.name) == 64) <= most
    )


def test_what_was_read_longest_ago_is_deleted_and_what_is_read_stays(objects, tmp_path, downloads):
    cache = FileCache(tmp_path / "c", most_bytes=3000, check_bytes=0)
    for name in ("file0", "file1", "file2", "file0"):
        assert read(cache, objects, name) == CONTENT[name]
    read(cache, objects, "file3")
    assert kept(tmp_path / "c") == {"file0", "file2", "file3"}
    other = FileCache(tmp_path / "c", most_bytes=2000, check_bytes=0)
    with cache.opened(objects, "file0", **KEYS["file0"]) as file:
        for name in ("file4", "file5", "file1"):
            read(other, objects, name)
            assert kept(tmp_path / "c") == {"file0", name}
        assert file.read() == CONTENT["file0"]
    assert downloads.names == ["file0", "file1", "file2", "file3", "file4", "file5", "file1"]


def test_a_file_is_fetched_once_by_all_who_want_it(objects, tmp_path, downloads):
    caches = [FileCache(tmp_path / "c", most_bytes=10_000, check_bytes=0) for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda cache: read(cache, objects, "file0"), caches)) == {CONTENT["file0"]}
    assert downloads.names == ["file0"]


def test_what_a_killed_process_left_is_deleted(objects, tmp_path):
    cache = FileCache(tmp_path / "c", most_bytes=1000, check_bytes=0)
    sha256 = KEYS["file1"]["sha256"]
    (tmp_path / "c" / f".{sha256}.7.partial").write_bytes(b"x" * 400)
    with open(tmp_path / "c" / f".{sha256}{FETCHING}", "wb") as file:
        file.truncate(1000)
    read(cache, objects, "file0")
    assert kept(tmp_path / "c") == {"file0"} and len(list((tmp_path / "c").iterdir())) == 2


def test_damage_is_fetched_again_once(objects, tmp_path, downloads):
    cache = FileCache(tmp_path / "c", most_bytes=9000, check_bytes=0)
    downloads.faults["flips"] = 1
    assert read(cache, objects, "file0") == CONTENT["file0"] and downloads.names == ["file0"] * 2
    downloads.faults["flips"] = 2
    with pytest.raises(FetchError, match=r"/file1: damaged"):
        read(cache, objects, "file1")
    assert downloads.names == ["file0"] * 2 + ["file1"] * 2 and kept(tmp_path / "c") == {"file0"}
    # A bit that changed on the local disk: noticed at the first reading of a process, and fetched again.
    path = tmp_path / "c" / KEYS["file0"]["sha256"]
    path.write_bytes(b"?" * 1000)
    assert read(FileCache(tmp_path / "c", most_bytes=9000, check_bytes=1), objects, "file0") == CONTENT["file0"]
    path.write_bytes(b"short")
    assert read(cache, objects, "file0") == CONTENT["file0"]


@pytest.mark.parametrize(
    ("error", "kind", "words", "tries"),
    [
        (FileNotFoundError("no"), FetchError, "/file0: is missing", 1),
        (OSError(errno.ENOSPC, "No space left on device"), FetchError, "the disk is full", 1),
        (ConnectionError("unreachable"), RemoteError, "/file0: ConnectionError: unreachable: check", 3),
    ],
)
def test_each_fault_has_its_message(objects, tmp_path, downloads, error, kind, words, tries):
    downloads.faults["error"] = error
    with pytest.raises(kind) as caught:
        read(FileCache(tmp_path / "c", most_bytes=9000, check_bytes=0), objects, "file0")
    assert words in str(caught.value) and objects.address in str(caught.value) and "\n" not in str(caught.value)
    assert len(downloads.names) == tries
    # Nothing is left but the file that orders those who make room.
    assert [path.name for path in (tmp_path / "c").iterdir()] == [".room"]


def test_a_cache_that_is_full_of_files_in_use(objects, tmp_path, monkeypatch):
    monkeypatch.setattr(file_cache, "ROOM_SECONDS", 0.05)
    cache = FileCache(tmp_path / "c", most_bytes=1500, check_bytes=0)
    with cache.opened(objects, "file0", **KEYS["file0"]), pytest.raises(FetchError, match="raise data.cache_gigabytes"):
        read(cache, objects, "file1")


def test_a_missing_shard_and_a_small_cache_are_named(stored, prepared):
    with pytest.raises(ValueError, match=rf"cache_gigabytes=1e-07: {stored.prepared}/\S+ alone has"):
        open_rows(dataclasses.replace(stored, cache_gigabytes=1e-7), "train", row_length=32, seed=0)
    shards = open_shards(stored.prepared, "train")
    Bucket(stored.prepared).delete(f"{shards.shards[1].name}.bin")
    with pytest.raises(FetchError, match=f"{stored.prepared}/{shards.shards[1].name}.bin: is missing"):
        shards.read_tokens(0, np.zeros(shards.num_tokens, np.int64))


def test_a_folder_is_published_once_and_manifest_last(prepared, tmp_path, monkeypatch):
    place, folder = f"memory://bucket/{os.urandom(4).hex()}", tmp_path / "data"
    shutil.copytree(prepared.prepared, folder)
    uploaded, upload = [], Bucket.upload
    monkeypatch.setattr(Bucket, "upload", lambda self, path, name: (uploaded.append(name), upload(self, path, name)))
    publish(folder, place)
    assert uploaded[-1] == MANIFEST and uploaded.count(MANIFEST) == 1
    publish(folder, place)
    assert uploaded[-1] == MANIFEST and uploaded.count(MANIFEST) == 1
    copy = local_folder(place)
    assert place_of(copy) == place and Manifest.load(copy).fingerprint == Manifest.load(folder).fingerprint
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text() + " ")
    with pytest.raises(ValueError, match=f"{place} holds prepared data, which"):
        publish(folder, place)


def test_addresses_that_cannot_be_used(prepared):
    with pytest.raises(ValueError, match=r"memory://bucket/nothing/manifest.json: not found"):
        open_corpus(dataclasses.replace(prepared, prepared="memory://bucket/nothing"), TOKENIZER)
    Bucket("memory://bucket/broken").write(MANIFEST, b"{")
    with contextlib.suppress(FileNotFoundError):
        Bucket("memory://bucket/broken").write("tokenizer/lmjax_tokenizer.json", b"{}")
    for _ in range(2):
        with pytest.raises(ValueError, match="memory://bucket/broken: .*damaged"):
            open_rows(DataConfig(prepared="memory://bucket/broken"), "train", row_length=8, seed=0)
    with pytest.raises(ValueError, match="only paths of local and mounted file systems"):
        DataConfig(prepared="ftp://host/data")
    with pytest.raises(ValueError, match="there are several sources"):
        DataConfig(prepared="s3://bucket/data", sources={"a": Source(path="x"), "b": Source(path="y")})


def test_sources_at_addresses_mix_as_folders_do(prepared, stored):
    def mixed(**sources):
        data = DataConfig(sources={name: Source(prepared=place) for name, place in sources.items()},
                          weights={"a": 1, "b": 3}, document_separator="|")  # fmt: skip
        corpus = open_corpus(data, TOKENIZER)
        return corpus.rows("train", row_length=32, seed=1).rows(range(12)).tokens_BT

    np.testing.assert_array_equal(
        mixed(a=prepared.prepared, b=prepared.prepared), mixed(a=prepared.prepared, b=stored.prepared)
    )
