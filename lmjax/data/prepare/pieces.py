"""Encoding of a long text piece by piece, with the same ids as for the whole text.

Tokenizers do not work from left to right, so a text may be cut only where no token can cross the cut. Such a place is
a line end, or else a space, between two characters that are not whitespace, if

- no token of the vocabulary holds what would be joined there (a line end and the beginning of a line; the
  end of a word and a space): the best division of the whole is then that of its two sides, in byte-pair
  encoding (no merge crosses) and in a unigram model (no piece does) alike, and
- on the text around it, the ids up to the place are those of the text up to the place: this finds the
  rules that cut a text into words by what follows.

Each piece is encoded together with the last characters of the piece before, and their ids are then removed. A
tokenizer that puts a space before a text thus puts it before those characters.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

PIECE_CHARACTERS = 1 << 18
CONTEXT_CHARACTERS = 1 << 9
_PIECES_AT_ONCE = 8
"""Number of pieces that are encoded together, so that a tokenizer can use its threads."""
_TRIES = 8
_COSTLY_CHARACTERS = 1 << 26

# (place to cut at, the text in any token that crosses such a place); the first is preferred.
_PLACES = (
    (re.compile(r"(?<=\S\n)(?=\S)"), re.compile(rb"\n\S")),
    (re.compile(r"(?<=\w)(?= \w)"), re.compile(rb"\S ")),
)


class Encoder(Protocol):
    """The methods of a tokenizer that encoding in pieces uses."""

    token_bytes: Any
    """The bytes of text that each id stands for."""

    def encode_batch(
        self, texts: Sequence[str], *, after: Sequence[str | None] | None = None, num_threads: int | None = None
    ) -> Sequence[Any]:
        """Token ids of each text, ``after`` the text before each."""


def encode_in_pieces(
    tokenizer: Encoder,
    blocks: Iterable[str],
    *,
    after: str | None = None,
    name: str = "a text",
    num_threads: int | None = None,
    piece_characters: int = PIECE_CHARACTERS,
) -> Iterator[np.ndarray]:
    """Yields the ids of a text, part by part.

    A long stretch without a place to cut is kept in memory and encoded in one piece.

    Args:
      tokenizer: encodes the pieces.
      blocks: the text, in parts of any length.
      after: the text before it, see :meth:`lmjax.tokenizers.base.Tokenizer.encode`.
      name: name of the text in messages.
      num_threads: the tokenizer's.
      piece_characters: approximate length of a piece.
    """
    waiting: list[tuple[str, str]] = []
    for piece in _pieces(tokenizer, blocks, name, piece_characters):
        waiting.append(piece)
        if len(waiting) == _PIECES_AT_ONCE:
            yield from _encode(tokenizer, waiting, after, name, num_threads)
            waiting = []
    yield from _encode(tokenizer, waiting, after, name, num_threads)


def _encode(
    tokenizer: Encoder, pieces: Sequence[tuple[str, str]], after: str | None, name: str, num_threads: int | None
) -> Iterator[np.ndarray]:
    texts = [context + piece for context, piece in pieces] + [context for context, _ in pieces]
    # Only the first piece directly follows the text before.
    befores = [None if context else after for context, _ in pieces] + [None] * len(pieces)
    encoded = [np.asarray(ids) for ids in tokenizer.encode_batch(texts, after=befores, num_threads=num_threads)]
    for ids, context_ids in zip(encoded[: len(pieces)], encoded[len(pieces) :], strict=True):
        if not np.array_equal(ids[: len(context_ids)], context_ids):
            raise ValueError(
                f"{name}: this tokenizer cannot encode a text of that length piece by piece: divide it into documents "
                f"(data.document_separator)"
            )
        yield ids[len(context_ids) :]


def _pieces(tokenizer: Encoder, blocks: Iterable[str], name: str, length: int) -> Iterator[tuple[str, str]]:
    """Yields (text before the piece, piece) pairs."""
    places = [place for place, crossing in _PLACES if not any(map(crossing.search, tokenizer.token_bytes))]
    held = context = ""
    goal, warned = length, False
    for block in blocks:
        held += block
        while len(held) >= goal + CONTEXT_CHARACTERS:
            cut = _place_to_cut(tokenizer, places, context + held, len(context) + goal, len(context))
            if cut is None:
                goal *= 2
                if goal > _COSTLY_CHARACTERS and not warned:
                    warned = True
                    print(f"{name}: no place to cut it in {len(held):,} characters: held whole, at some 30 bytes of "
                          f"memory a character", file=sys.stderr)  # fmt: skip
                continue
            cut -= len(context)
            yield context, held[:cut]
            context, held = (context + held[:cut])[-CONTEXT_CHARACTERS:], held[cut:]
            goal = length
    if held:
        yield context, held


def _place_to_cut(tokenizer: Encoder, places: Sequence[re.Pattern[str]], text: str, end: int, begin: int) -> int | None:
    """Returns the last place between ``begin`` and ``end`` at which the text may be cut, among the last few places."""
    for place in places:
        start = max(begin + 1, end - (end - begin) // 4)
        found = [match.start() for match in place.finditer(text, start, end)][-_TRIES:]
        for cut in reversed(found):
            before = text[max(cut - CONTEXT_CHARACTERS, 0) : cut]
            around, alone = tokenizer.encode_batch([before + text[cut : cut + CONTEXT_CHARACTERS], before])
            if np.array_equal(np.asarray(around)[: len(alone)], np.asarray(alone)):
                return cut
    return None
