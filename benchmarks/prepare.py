"""Text to token shards: megabytes a second of processor time, and memory, beside `datasets.map` with tiktoken.

    python benchmarks/prepare.py [--megabytes 200] [--rounds 3]

The corpus is JSON lines made of the standard library's sources. All ways use the same byte-pair encoding, in one
process. nanoGPT's way is `datasets.map` that encodes each document, by tiktoken or by Hugging Face's own `tokenizers`,
and then one loop that writes all ids to a memory map; it is left out if `datasets` is not installed. The ways take
turns, each time in a process of its own, so that other programs on the machine meet them alike; the best round of each
counts.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from machine import described

from lmjax.data.config import DataConfig
from lmjax.data.prepare.documents import texts
from lmjax.data.prepare.prepare import prepare
from lmjax.tokenizers import TokenizerConfig, load_tokenizer, train_and_save


def make_corpus(path: pathlib.Path, num_bytes: int) -> None:
    documents = list(texts(DataConfig(valid_fraction=0.0)))
    written = 0
    with open(path, "w") as file:
        while written < num_bytes:
            for text in documents:
                file.write(json.dumps({"text": f"# {written}\n{text}"}) + "\n")
                written += len(text)
                if written >= num_bytes:
                    break


def with_lmjax(folder: pathlib.Path) -> int:
    config = DataConfig(path=str(folder / "corpus.jsonl"), valid_fraction=0.0)
    with tempfile.TemporaryDirectory(dir=folder) as output:
        made = prepare(config, load_tokenizer(folder / "tokenizer"), output, num_workers=1)
        return made.total("train", "tokens")


def with_tiktoken(folder: pathlib.Path) -> int:
    import tiktoken

    saved = load_tokenizer(folder / "tokenizer")
    tokens = saved.token_bytes[: 256 + len(saved.merges)]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    encoding = tiktoken.Encoding("same", pat_str=saved.pattern, mergeable_ranks=ranks, special_tokens={})
    return with_datasets(folder, encoding.encode_ordinary, saved.vocabulary.eos_id)


def with_tokenizers(folder: pathlib.Path) -> int:
    saved = load_tokenizer(folder / "tokenizer")
    tokenizer = saved.to_huggingface()
    return with_datasets(folder, lambda text: tokenizer.encode(text).ids, saved.vocabulary.eos_id)


def with_datasets(folder: pathlib.Path, encode_text: Callable[[str], list[int]], eos: int) -> int:
    import datasets

    def encode(example):
        ids = [*encode_text(example["text"]), eos]
        return {"ids": ids, "len": len(ids)}

    with tempfile.TemporaryDirectory(dir=folder) as cache:
        loaded = datasets.load_dataset("json", data_files=str(folder / "corpus.jsonl"), split="train", cache_dir=cache)
        encoded = loaded.map(encode, remove_columns=["text"], num_proc=1)
        total = int(np.sum(encoded["len"], dtype=np.uint64))
        ids_N = np.memmap(pathlib.Path(cache) / "train.bin", np.uint16, mode="w+", shape=(total,))
        place = 0
        for number in range(parts := min(1024, len(encoded))):
            shard = encoded.shard(num_shards=parts, index=number, contiguous=True).with_format("numpy")
            batch_N = np.concatenate(shard["ids"])
            ids_N[place : place + len(batch_N)] = batch_N
            place += len(batch_N)
        ids_N.flush()
        return total


ONE_THREAD = {"JAX_PLATFORMS": "cpu", "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
WAYS = {
    "lmjax": with_lmjax,
    "datasets.map, tiktoken": with_tiktoken,
    "datasets.map, tokenizers": with_tokenizers,
}


def measure(way: str, folder: pathlib.Path) -> None:
    """Runs one way in this process, and prints its seconds of processor time, peak memory and tokens."""
    begin = time.process_time()
    tokens = WAYS[way](folder)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() - begin + children.ru_utime + children.ru_stime
    peak = max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, children.ru_maxrss)
    print(json.dumps({"seconds": seconds, "peak": peak << 10, "tokens": tokens}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], pathlib.Path(options.measure[1]))
        return
    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        make_corpus(folder / "corpus.jsonl", options.megabytes << 20)
        train_and_save(
            TokenizerConfig(kind="bpe", vocab_size=32_768),
            lambda: texts(DataConfig(valid_fraction=0.0)),
            folder / "tokenizer",
        )
        for _ in range(options.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, "--measure", way, scratch]
                ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ONE_THREAD})
                if ended.returncode:
                    print(f"{way}: left out ({ended.stderr.strip().splitlines()[-1]})")
                    continue
                found[way].append(json.loads(ended.stdout.splitlines()[-1]))
    print(described())
    best = {way: min(rounds, key=lambda one: one["seconds"]) for way, rounds in found.items() if rounds}
    for way, one in best.items():
        times = f", {one['seconds'] / best['lmjax']['seconds']:.2f} times the time of lmjax" if way != "lmjax" else ""
        print(
            f"{way}: {options.megabytes * 1.048576 / one['seconds']:.1f} MB a cpu-second, "
            f"{one['peak'] / 2**20:.0f} MiB at most, {one['tokens']:,} tokens{times}"
        )


if __name__ == "__main__":
    main()
