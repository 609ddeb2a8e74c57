"""Several preparations of one folder divide the units among themselves, and a killed one loses nothing."""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from lmjax.data.config import DataConfig
from lmjax.data.prepare import workers
from lmjax.data.prepare.prepare import load_saved_tokenizer, prepare
from lmjax.tokenizers.byte import ByteTokenizer

TOKENIZER = ByteTokenizer({"<pad>": 256, "<eos>": 257, "<bos>": 258})
NUM_UNITS = 12


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> DataConfig:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": f"document {n}: " + "text " * (n % 13)}) + "\n" for n in range(300)))
    return DataConfig(path=str(path), shard_bytes=path.stat().st_size // NUM_UNITS + 1)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, config) -> dict[str, bytes]:
    """The files of a preparation by one process."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    prepare(config, TOKENIZER, folder, num_workers=1)
    return contents(folder)


def test_two_preparations_divide_the_units(tmp_path, config, alone, monkeypatch):
    done: dict[int, list[int]] = {}
    both, lock = threading.Barrier(2), threading.Lock()
    encode_unit = workers.encode_unit

    def noted(job, tokenizer, number, unit, advance):
        with lock:
            own = done.setdefault(threading.get_ident(), [])
            own.append(number)
        if len(own) == 1:
            both.wait(timeout=20)  # both are at work now
        encode_unit(job, tokenizer, number, unit, advance)

    monkeypatch.setattr(workers, "encode_unit", noted)
    amounts: list[list[tuple[int, int]]] = [[], []]
    manifests = []

    def prepares(seen):
        found = prepare(
            config, TOKENIZER, tmp_path / "out", num_workers=1, progress=lambda *amount: seen.append(amount)
        )
        manifests.append(found)

    threads = [threading.Thread(target=prepares, args=(seen,)) for seen in amounts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(tmp_path / "out") == alone
    assert manifests[0] == manifests[1]
    assert len(done) == 2 and sorted(itertools.chain(*done.values())) == list(range(NUM_UNITS))
    for seen in amounts:
        assert seen[-1][0] == seen[-1][1] == os.path.getsize(config.path) and seen == sorted(seen)


def test_another_preparation_of_the_folder_is_refused_while_one_works(tmp_path, config, alone, monkeypatch):
    encode_unit, refused = workers.encode_unit, []

    def other():
        with pytest.raises(ValueError, match="is being prepared by other processes, .* with other settings"):
            prepare(DataConfig(path=config.path, add_bos=True), TOKENIZER, tmp_path / "out", num_workers=1)
        refused.append(True)

    def intrudes(*arguments):
        if not refused:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        encode_unit(*arguments)

    monkeypatch.setattr(workers, "encode_unit", intrudes)
    prepare(config, TOKENIZER, tmp_path / "out", num_workers=1)
    assert refused == [True] and contents(tmp_path / "out") == alone


HANGS = """
import pathlib, time
from lmjax.data.config import DataConfig
from lmjax.data.prepare import workers
from lmjax.data.prepare.prepare import prepare
from lmjax.tokenizers.byte import ByteTokenizer

encode_unit = workers.encode_unit
def hangs(job, tokenizer, number, unit, advance):
    if number == 3:
        print("at unit 3", flush=True)
        time.sleep(600)
    encode_unit(job, tokenizer, number, unit, advance)
workers.encode_unit = hangs
config = DataConfig(path={path!r}, shard_bytes={shard_bytes})
prepare(config, ByteTokenizer({{"<pad>": 256, "<eos>": 257, "<bos>": 258}}), {folder!r}, num_workers=1)
"""


@pytest.mark.processes
def test_the_unit_of_a_killed_process_is_done_by_the_other(tmp_path, config, alone):
    script = HANGS.format(path=config.path, shard_bytes=config.shard_bytes, folder=str(tmp_path / "out"))
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "at unit 3\n"
        waited = []

        def kills():
            while len(list((tmp_path / "out" / "entries").glob("*.json"))) < NUM_UNITS - 1:
                time.sleep(0.05)
            waited.append(not (tmp_path / "out" / "manifest.json").exists())
            other.send_signal(signal.SIGKILL)

        thread = threading.Thread(target=kills)
        thread.start()
        prepare(config, TOKENIZER, tmp_path / "out", num_workers=1)
        thread.join()
    assert waited == [True] and contents(tmp_path / "out") == alone


class SlowTokenizer(ByteTokenizer):
    """Takes a tenth of a second for each batch, so that a test can meet it at work."""

    def encode_batch(self, *arguments, **options):
        time.sleep(0.1)
        return super().encode_batch(*arguments, **options)


def load_slowly(folder: pathlib.Path) -> ByteTokenizer:
    saved = load_saved_tokenizer(folder)
    return SlowTokenizer(saved.special_tokens)


@pytest.mark.long
@pytest.mark.processes
def test_a_dask_cluster_prepares_though_a_worker_is_killed(tmp_path, config, alone, monkeypatch):
    distributed = pytest.importorskip("distributed")
    root = pathlib.Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(root / "tests" / "data")]))
    killed = []
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        pids = {worker.pid for worker in cluster.workers.values()}
        assert len(pids) == 2

        def kill_one(done, total):
            if done > total / 4 and not killed:
                killed.append(distributed.Client(cluster).run(os.getpid))
                os.kill(min(killed[0].values()), signal.SIGKILL)

        manifest = prepare(
            config,
            TOKENIZER,
            tmp_path / "out",
            engine=cluster.scheduler_address,
            progress=kill_one,
            load_tokenizer=load_slowly,
        )
    assert len(killed) == 1 and manifest.total("train", "documents") > 0
    assert contents(tmp_path / "out") == alone


def test_an_engine_that_is_not_there(tmp_path, config):
    with pytest.raises(
        ValueError, match=r"engine tcp://127.0.0.1:9: no Dask scheduler answers|needs Dask: pip install"
    ):
        prepare(config, TOKENIZER, tmp_path / "out", engine="tcp://127.0.0.1:9")
