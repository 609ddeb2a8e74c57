"""How well a tokenizer compresses texts: bytes a token, and how often it falls back to single bytes."""

import collections
import dataclasses
from collections.abc import Iterable

import numpy as np

from lmjax.tokenizers.base import Tokenizer

_TEXTS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compression:
    """How a tokenizer cuts the texts of one source.

    Attributes:
      text_bytes: UTF-8 bytes of the texts.
      tokens: number of tokens.
      words: number of words, divided by whitespace.
      single_bytes: share of the tokens that are single bytes of characters of several bytes: pieces of characters that
        the vocabulary lacks.
      used: share of the ids of text that occur.
    """

    text_bytes: int
    tokens: int
    words: int
    single_bytes: float
    used: float

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes for each token: more is shorter."""
        return self.text_bytes / max(self.tokens, 1)

    @property
    def tokens_per_word(self) -> float:
        """Tokens for each word, which is called the fertility of a tokenizer."""
        return self.tokens / max(self.words, 1)


def compression(tokenizer: Tokenizer, texts: Iterable[str]) -> Compression:
    """Returns how a tokenizer cuts texts, each of which is a document.

    Raises:
      ValueError: there is no text.
    """
    # A byte above 127 is a part of a character.
    is_part_V = np.array([len(token) == 1 and token[0] > 127 for token in tokenizer.token_bytes], bool)
    is_text_V = np.array([bool(token) for token in tokenizer.token_bytes], bool)
    counts: collections.Counter[str] = collections.Counter()
    used_V = np.zeros(len(is_part_V), bool)
    batch: list[str] = []

    def add() -> None:
        for text, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
            counts.update(bytes=len(text.encode()), tokens=len(ids), words=len(text.split()))
            counts["parts"] += int(is_part_V[ids].sum())
            used_V[ids] = True
        batch.clear()

    for text in texts:
        batch.append(text)
        if len(batch) == _TEXTS_AT_ONCE:
            add()
    add()
    if not counts["tokens"]:
        raise ValueError("no text to compress: name files that hold some")
    return Compression(
        text_bytes=counts["bytes"],
        tokens=counts["tokens"],
        words=counts["words"],
        single_bytes=counts["parts"] / counts["tokens"],
        used=float((used_V & is_text_V).sum() / is_text_V.sum()),
    )
