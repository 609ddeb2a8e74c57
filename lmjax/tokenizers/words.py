"""Finds from their bytes alone which tokens begin or end a word, and which end a sentence.

A word is whitespace and the text after it up to the next whitespace. Chinese and Japanese write no whitespace between
words: there each ideograph is a word, as in BERT (Devlin et al. 2019, its published tokenizer), and each kana. Thai,
Lao, Khmer and similar scripts write none either, and their words cannot be found from the characters.
"""

from collections.abc import Sequence

import numpy as np

# The blocks of Japanese syllables, followed by BERT's blocks of ideographs.
_CHARACTER_WORDS = (
    (0x3041, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip
# Thai, Lao, Tibetan, Burmese; Khmer; the Tai scripts; Balinese; Javanese.
_UNSPACED = (
    (0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF), (0x1B00, 0x1B7F),
    (0xA980, 0xA9DF),
)  # fmt: skip
# The first bytes of characters from U+3000 to U+9FFF, for tokens that hold only a part of a character.
_CHARACTER_WORD_BYTES = range(0xE3, 0xEA)
_FEWEST = 0.02
"""If a smaller share of the longer tokens begins or ends a word, the tokenizer does not tell words apart."""


def word_bounds(
    token_bytes: Sequence[bytes],
    *,
    starts: Sequence[bool] | None = None,
    ends: Sequence[bool] | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Finds the tokens that begin a word, and the tokens that end one, so that the next token begins another.

    Args:
      token_bytes: the bytes of each token.
      starts: for each token, whether it begins a word, if the tokenizer marks this; when None, the bytes decide.
      ends: for each token, whether it ends a word, if the tokenizer marks this; when None, the bytes decide.

    Returns:
      Two bool arrays [V], or ``None`` where the tokens do not tell words apart.
    """
    # Where a character is cut, the token ends (or begins) with U+FFFD here, which belongs to no script.
    texts = [token.decode("utf-8", errors="replace") for token in token_bytes]
    word_start_V = np.array(starts or [*map(_begins_word, token_bytes)], bool)
    word_end_V = np.array(ends or [_within(text[-1:], _CHARACTER_WORDS) for text in texts], bool)
    longer_V = np.array([len(text.encode()) > 1 and any(map(str.isalpha, text)) for text in texts], bool)
    unspaced_V = np.array([any(_within(character, _UNSPACED) for character in text) for text in texts], bool)
    bounds_V = word_start_V | word_end_V
    few = bounds_V[longer_V].sum() < _FEWEST * longer_V.sum()
    if not bounds_V.any() or few or unspaced_V.sum() > longer_V.sum() / 2:
        return None
    return word_start_V, word_end_V


def ends_sentence(token: bytes) -> bool:
    """Returns whether a token ends in a full stop or a similar mark, perhaps followed by closing quotes or brackets."""
    text = token.decode("utf-8", errors="ignore").rstrip().rstrip("\"')]}»”’").rstrip()
    return text.endswith((".", "!", "?", "…", "。", "！", "？"))


def _begins_word(token: bytes) -> bool:
    text = token.decode("utf-8", errors="replace")
    partial = text[:1] == "\ufffd" and token[0] in _CHARACTER_WORD_BYTES
    return text[:1].isspace() or _within(text[:1], _CHARACTER_WORDS) or partial


def _within(character: str, blocks: tuple[tuple[int, int], ...]) -> bool:
    return bool(character) and character > "\x7f" and any(low <= ord(character) <= high for low, high in blocks)
