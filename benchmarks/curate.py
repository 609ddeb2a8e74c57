"""Curation: megabytes a second of processor time for each rule, and MinHash beside datasketch.

    python benchmarks/curate.py [--documents 100] [--rounds 3]

The documents are the pages of docs/, cut into pieces. The rules and libraries take turns in one process and on one
core; the best round of each counts. It needs the extra `curate`, and datasketch for the comparison.
"""

import argparse
import pathlib
import time
from collections.abc import Callable

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from machine import described

from lmjax.curate import (
    C4Quality,
    ExactDuplicates,
    FineWebQuality,
    GopherQuality,
    GopherRepetition,
    NearDuplicates,
    Normalize,
    PersonalData,
)
from lmjax.curate.duplicates import sequences
from lmjax.curate.words import make_words

CHARACTERS = 3000


def pieces(count: int) -> list[str]:
    text = "\n".join(path.read_text() for path in sorted(pathlib.Path("docs").rglob("*.md")))
    starts = np.linspace(0, len(text) - CHARACTERS, count, dtype=int)
    return [text[start : start + CHARACTERS] for start in starts]


def judging(rule) -> Callable[[str], object]:
    judge = rule.judge()
    return lambda text: judge(Document(text=text, id=""))


def with_datasketch(rule: NearDuplicates) -> Callable[[str], object]:
    import datasketch

    words_of = make_words()

    def signature(text: str) -> object:
        values = datasketch.MinHash(num_perm=rule.bands * rule.rows)
        values.update_batch([piece.encode() for piece in sequences(words_of(text), rule.words)])
        return values.digest()

    return signature


def with_datatrove(folder: str = "minhash") -> Callable[[str], object]:
    step = MinhashDedupSignature(folder)
    return lambda text: step.get_signature(step.get_shingles(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rules = (Normalize(), PersonalData(), GopherQuality(), GopherRepetition(), C4Quality(), FineWebQuality())
    near = NearDuplicates()
    ways = {rule.name: judging(rule) for rule in rules}
    ways |= {"ExactDuplicates": ExactDuplicates().keys(), "simplified words": make_words()}
    ways |= {"NearDuplicates (rensa)": near.keys(), "MinHash of datasketch": with_datasketch(near)}
    ways["MinHash of datatrove"] = with_datatrove()
    texts = pieces(options.documents)
    num_bytes = sum(len(text.encode()) for text in texts)
    best = dict.fromkeys(ways, float("inf"))
    for turn in range(options.rounds + 1):  # the first loads what is needed
        for name, way in ways.items():
            # datatrove remembers the words of the last texts, so each rule finds others.
            begin = time.process_time()
            for text in texts:
                way(f"{name} {turn} {text}")
            if turn:
                best[name] = min(best[name], time.process_time() - begin)
    print(described())
    for name, seconds in best.items():
        print(f"{name:24} {num_bytes / 1e6 / seconds:8.2f} MB a cpu-second")
    own = {name: best[name] - best["simplified words"] for name in ("NearDuplicates (rensa)", "MinHash of datasketch")}
    ours, theirs = own.values()
    print(f"MinHash without the words: {theirs / max(ours, 1e-9):.1f} times datasketch")


if __name__ == "__main__":
    main()
