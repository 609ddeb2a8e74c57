"""The record that reading returns: a document, its parts, and its source."""

import dataclasses
from typing import Any

from lmjax.data.config import DataConfig
from lmjax.data.prepare.long_text import Text
from lmjax.tokenizers.chat import Message

REPLACEMENT = "\ufffd"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """Some text in parts, each with the loss weight of its tokens.

    Attributes:
      name: the file (and line) from which it was read.
      parts: (text, loss weight) pairs; the document is their concatenation. Of an example of several
        texts (``data.members``) they are those of one member after the other, equally many of each.
      undecodable_bytes: bytes that were not UTF-8 and were replaced.
      markers: for each part, the names of the special tokens before it; empty for none at all.
      befores: with markers, the end of the text that precedes each part in the original document, for the parts are
        reordered.
      id: the id that its record has; empty if it has none.
      messages: the messages of a conversation, whose texts the parts are until a template has arranged them.
      kept: the fields of its record that were asked for beside the text, if it has them.
      span: its bytes in the content of the file, as (begin, end, size of the content); ``None`` for all bytes.
    """

    name: str
    parts: tuple[tuple[Text, float], ...]
    undecodable_bytes: int = 0
    markers: tuple[tuple[str, ...], ...] = ()
    befores: tuple[str, ...] = ()
    id: str = ""
    messages: tuple[Message, ...] = ()
    kept: dict[str, Any] = dataclasses.field(default_factory=dict)
    span: tuple[int, int, int] | None = None

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.held_texts)

    @property
    def held_texts(self) -> list[str]:
        """The text of each part; only for a document that is in memory."""
        assert not self.is_long, "a long text is never held whole"
        return [text for text, _ in self.parts if isinstance(text, str)]

    @property
    def num_characters(self) -> int:
        """Length of the text."""
        return sum(len(text) for text, _ in self.parts)

    @property
    def is_long(self) -> bool:
        """Whether a part of the text is kept in a file."""
        return not all(isinstance(text, str) for text, _ in self.parts)


def decode(content: bytes, config: DataConfig, *, offset: int = 0) -> tuple[str, int]:
    """Returns the text, and the number of bytes that were not UTF-8 and became U+FFFD.

    Args:
      content: the bytes; no UTF-8 character may be cut at either end.
      config: says what to do with bytes that are not.
      offset: place of the content in its file, for the message.

    Raises:
      ValueError: a byte is not UTF-8, and ``data.decode_errors`` is "strict".
    """
    try:
        return content.decode(), 0
    except UnicodeDecodeError as error:
        if config.decode_errors == "strict":
            raise ValueError(
                f"byte 0x{content[error.start]:02x} at offset {offset + error.start} is not UTF-8: convert "
                f"the file, or set data.decode_errors=replace"
            ) from None
    text = content.decode(errors="replace")
    replaced = text.count(REPLACEMENT) - content.count(REPLACEMENT.encode())
    kept_bytes = len(text.encode()) - replaced * len(REPLACEMENT.encode())
    return text, len(content) - kept_bytes
