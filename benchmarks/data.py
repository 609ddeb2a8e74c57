"""Shards to batches: tokens a second of processor time, and memory over a billion tokens.

    python benchmarks/data.py [--tokens 1000000000]

Prints, for each packing, Mtok per cpu-second (``time.process_time``, so other programs do not
matter) and by how much the process's memory grew between the first batches and the last. The token
file is sparse: it has its full length and takes no disk.
"""

import argparse
import os
import pathlib
import tempfile
import time

import numpy as np

from lmjax.data.manifest import BOUND_DTYPE, FileRecord, Manifest, Shard
from lmjax.data.rows.blocks import PackedRows, WindowRows
from lmjax.data.rows.pipeline import batches
from lmjax.data.rows.shard_reader import open_shards
from lmjax.data.rows.source import RowSource

VOCABULARY_SIZE = 50_304
MEAN_DOCUMENT = 700


def resident_bytes() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def make_folder(folder: pathlib.Path, num_tokens: int) -> pathlib.Path:
    """A prepared folder of zeros, with documents of log-normal lengths."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(MEAN_DOCUMENT) - 0.72, 1.2, 2 * num_tokens // MEAN_DOCUMENT))
    ends = np.cumsum(lengths.astype(np.int64) + 1)
    bounds = np.concatenate([[0], ends[ends < num_tokens], [num_tokens]]).astype(BOUND_DTYPE)
    bounds.tofile(folder / "train-00000.idx")
    with open(folder / "train-00000.bin", "wb") as file:
        file.truncate(2 * num_tokens)
    files = {path.name: FileRecord(size=path.stat().st_size, sha256="") for path in folder.glob("train-00000.*")}
    num_documents = len(bounds) - 1
    shard = Shard(
        name="train-00000",
        split="train",
        tokens=num_tokens,
        documents=num_documents,
        text_bytes=0,
        files=files,
    )
    manifest = Manifest(
        dtype="uint16",
        weighted=False,
        vocabulary_size=VOCABULARY_SIZE,
        pad_id=0,
        tokenizer_fingerprint="",
        settings={},
        source={},
        shards=(shard,),
    )
    manifest.save(folder)
    return folder


def open_packing(folder: pathlib.Path, packing: str, row_length: int) -> RowSource:
    shards = open_shards(folder, "train", verify="never")
    if packing == "best_fit":
        return PackedRows(shards, row_length=row_length, seed=0)
    return WindowRows(shards, row_length=row_length, seed=0, segments=packing == "segments")


def measure(folder: pathlib.Path, packing: str, row_length: int, batch_size: int, seconds: float) -> str:
    began = time.perf_counter()
    rows = open_packing(folder, packing, row_length)
    opening = time.perf_counter() - began
    iterator = batches(rows, global_batch_size=batch_size)
    for _ in range(20):
        next(iterator)
    memory, began, num_batches = resident_bytes(), time.process_time(), 0
    while time.process_time() - began < seconds:
        next(iterator)
        num_batches += 1
    elapsed = time.process_time() - began
    num_tokens = num_batches * batch_size * row_length
    growth = (resident_bytes() - memory) / 2**20
    return (
        f"{packing:9} T={row_length} B={batch_size}: {num_tokens / elapsed / 1e6:6.1f} Mtok/cpu-s, "
        f"opened in {opening:6.3f} s, memory +{growth:.1f} MiB over {num_tokens / 1e6:.0f} Mtok"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=10**9, help="length of the sparse file")
    parser.add_argument("--seconds", type=float, default=3.0, help="processor time for each line")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_folder(pathlib.Path(temporary) / "data", arguments.tokens)
        print(f"{arguments.tokens:,} tokens, documents of {MEAN_DOCUMENT} on average")
        for packing in ("windows", "segments", "best_fit"):
            for row_length, batch_size in ((1024, 64), (2048, 32)):
                print(measure(folder, packing, row_length, batch_size, arguments.seconds))


if __name__ == "__main__":
    main()
