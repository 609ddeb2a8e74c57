"""A character to put before a text that is not the beginning of one, and to cut away again after encoding.

A tokenizer that puts a space before every text cannot be asked for a later part by itself. With a token of its own
before it, of a character that no other token holds, the part is encoded as it stands in a longer text.
"""

from collections.abc import Sequence

# Letters without case, decomposition or digits, so that no normaliser changes or drops one; hardly ever written.
_CHARACTERS = ("\ua66e", "\U00012000", "\U00010300", "\ua4d0")


def anchor_for(text: str, taken: Sequence[str] = ()) -> str:
    """A character that ``text`` does not hold, and that is not one of ``taken``; the last one where there is none."""
    return next((one for one in _CHARACTERS if one not in text and one not in taken), _CHARACTERS[-1])
