"""How fast each tokenizer encodes: MB of text for each second of processor time.

    python benchmarks/tokenizer_speed.py [--megabytes 4] [--vocab-size 8192]

Text is Python's own standard library. Each kind is trained on a part of it, then encodes all of it,
document by document on one thread, best of three. Last comes the same byte-level BPE run by
`tokenizers` (its batch call, without offsets), whose ids are checked to be the same.
"""

import argparse
import pathlib
import sysconfig
import time
from collections.abc import Callable

from lmjax.tokenizers import TokenizerConfig, build_tokenizer
from lmjax.tokenizers.bpe import BytePairTokenizer

KINDS = ("bytes", "bpe", "sentencepiece_bpe", "sentencepiece_unigram")


def read_texts(max_bytes: int) -> list[str]:
    texts: list[str] = []
    total = 0
    for path in sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("*/*.py")):
        if total >= max_bytes:
            break
        texts.append(path.read_text(encoding="utf-8", errors="replace"))
        total += len(texts[-1].encode())
    return texts


def processor_seconds(run: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=4.0)
    parser.add_argument("--vocab-size", type=int, default=8192)
    arguments = parser.parse_args()
    texts = read_texts(int(arguments.megabytes * 1e6))
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} files, {megabytes:.1f} MB, vocabulary {arguments.vocab_size}")
    print(f"{'kind':<24}{'MB/cpu-s':>10}{'bytes/token':>13}{'training s':>12}")
    for kind in KINDS:
        size = None if kind == "bytes" else arguments.vocab_size
        start = time.process_time()
        tokenizer = build_tokenizer(TokenizerConfig(kind=kind, vocab_size=size), lambda: texts)
        training = time.process_time() - start
        ids = tokenizer.encode_batch(texts, num_threads=1)
        speed = megabytes / processor_seconds(lambda t=tokenizer: t.encode_batch(texts, num_threads=1))
        ratio = megabytes * 1e6 / sum(map(len, ids))
        print(f"{kind:<24}{speed:>10.1f}{ratio:>13.2f}{training:>12.1f}", flush=True)
        if isinstance(tokenizer, BytePairTokenizer):
            other = tokenizer.to_huggingface()
            other.encode_special_tokens = True
            encoded = other.encode_batch_fast(texts, add_special_tokens=False)
            same = all(mine.tolist() == theirs.ids for mine, theirs in zip(ids, encoded, strict=True))
            other_speed = megabytes / processor_seconds(lambda t=other: t.encode_batch_fast(texts))
            name = "bpe run by tokenizers"
            print(f"{name:<24}{other_speed:>10.1f}   ids {'identical' if same else 'DIFFER'}")
            print(f"ratio tiktoken / tokenizers: {speed / other_speed:.1f}", flush=True)
            assert same


if __name__ == "__main__":
    main()
