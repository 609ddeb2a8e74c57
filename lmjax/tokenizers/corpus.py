"""Draws the sample of a corpus that a tokenizer is trained on: bounded, uniform, and the same every time."""

import heapq
import random
from collections.abc import Iterable

from lmjax.tokenizers.text import utf8

_PIECE = 1 << 16


def sample_corpus(texts: Iterable[str], *, max_bytes: int, seed: int) -> list[str]:
    """Returns a uniform sample of ``texts``, cut into pieces of 65,536 characters, in their order.

    Each piece gets a random number, and the pieces with the smallest numbers stay. This takes one pass, and there is
    never more than ``max_bytes`` and one document in memory.

    Args:
      texts: the documents.
      max_bytes: the most UTF-8 bytes of the sample; a piece longer than that is cut.
      seed: decides the random numbers.

    Raises:
      ValueError: there is no text at all.
    """
    draw = random.Random(seed).random
    kept: list[tuple[float, int, str, int]] = []
    total = 0
    pieces = (text[start : start + _PIECE] for text in texts for start in range(0, len(text), _PIECE))
    for index, piece in enumerate(pieces):
        encoded = utf8(piece)
        if len(encoded) > max_bytes:
            encoded = encoded[:max_bytes]
            piece = encoded.decode(errors="ignore")
        heapq.heappush(kept, (-draw(), index, piece, len(encoded)))
        total += len(encoded)
        while total > max_bytes:
            total -= heapq.heappop(kept)[-1]
    if not kept:
        raise ValueError("the tokenizer's training corpus is empty: check the data's path")
    return [piece for _, _, piece, _ in sorted(kept, key=lambda entry: entry[1])]
