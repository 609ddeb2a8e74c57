"""Chooses an anchor: a character put before a later part of a text, and removed again after encoding.

A tokenizer that puts a space before every text cannot encode a later part of a text by itself. The anchor has a
token of its own, and no other token contains its character. With it in front, the part is encoded as it would be
within the longer text.
"""

from collections.abc import Sequence

# These letters have no case and no decomposition and are no digits, so no normaliser changes or drops them. They are
# hardly ever written.
_CHARACTERS = ("\ua66e", "\U00012000", "\U00010300", "\ua4d0")


def anchor_for(text: str, taken: Sequence[str] = ()) -> str:
    """Returns a character that is neither in ``text`` nor in ``taken``; the last character tried if there is none."""
    return next((one for one in _CHARACTERS if one not in text and one not in taken), _CHARACTERS[-1])
