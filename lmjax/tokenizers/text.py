"""Prepares text for tokenizers: checks that it is well-formed, and finds the text before each part."""

from collections.abc import Sequence

_CONTEXT = 16
"""The number of characters before a text that can change how it is encoded."""


def texts_before(parts: Sequence[str]) -> list[str | None]:
    """Returns, for each part of a text, the end of the text before it; ``None`` where there is none."""
    befores: list[str | None] = []
    before = ""
    for part in parts:
        befores.append(before or None)
        before = (before + part)[-_CONTEXT:]
    return befores


def utf8(text: str) -> bytes:
    """Returns the UTF-8 bytes of ``text``.

    Raises:
      ValueError: ``text`` holds a lone surrogate.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text has a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}: "
            f"read it with errors='replace'"
        ) from None
