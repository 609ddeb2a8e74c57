"""What reading gives: documents, and a tally of what was met on the way."""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

from lmjax.data.config import DataConfig
from lmjax.data.long_text import Text

REPLACEMENT = "\ufffd"
FIRST_PLACES = 5
"""Bad records that are described; the others are counted."""
_ENOUGH_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """Some text in parts, each with the loss weight of its tokens.

    Attributes:
      name: the file (and line) it came from.
      parts: (text, loss weight) pairs; the document is their concatenation. Of an example of several
        texts (``data.members``) they are those of one member after the other, equally many of each.
      undecodable_bytes: bytes that were not UTF-8 and were replaced.
      markers: for each part, the names of the special tokens before it; empty for none at all.
      befores: with markers, the end of what stands before each part in the document, whose order the parts have left.
      span: the bytes of the file's content it takes, as (begin, end, size of the content); ``None`` for all.
    """

    name: str
    parts: tuple[tuple[Text, float], ...]
    undecodable_bytes: int = 0
    markers: tuple[tuple[str, ...], ...] = ()
    befores: tuple[str, ...] = ()
    span: tuple[int, int, int] | None = None

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.held_texts)

    @property
    def held_texts(self) -> list[str]:
        """The text of each part of a document that is held in memory."""
        assert not self.is_long, "a long text is never held whole"
        return [text for text, _ in self.parts if isinstance(text, str)]

    @property
    def num_characters(self) -> int:
        """Length of the text."""
        return sum(len(text) for text, _ in self.parts)

    @property
    def is_long(self) -> bool:
        """Whether some of it is kept in a file."""
        return not all(isinstance(text, str) for text, _ in self.parts)


@dataclasses.dataclass(kw_only=True)
class Tally:
    """What reading met; tallies of several units add up.

    Attributes:
      content_bytes: bytes of content read.
      undecodable: bytes that were not UTF-8 and were replaced, by file name.
      bad_records: records left out.
      bad_places: where the first of them are, and what is wrong with each.
      text_files: files of text that were to be divided by the separator.
      separated_files: of those, files that it occurs in.
    """

    content_bytes: int = 0
    undecodable: dict[str, int] = dataclasses.field(default_factory=dict)
    bad_records: int = 0
    bad_places: list[str] = dataclasses.field(default_factory=list)
    text_files: int = 0
    separated_files: int = 0

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Tally":
        """The inverse of ``dataclasses.asdict``.

        Raises:
          ValueError: a field is missing, unknown or of another type.
        """
        empty = dataclasses.asdict(cls())
        same = isinstance(content, dict) and content.keys() == empty.keys()
        if not same or any(type(content[name]) is not type(value) for name, value in empty.items()):
            raise ValueError("not a tally")
        counts, places = content["undecodable"].values(), content["bad_places"]
        if not all(isinstance(n, int) for n in counts) or not all(isinstance(place, str) for place in places):
            raise ValueError("not a tally")
        return cls(**content)

    def add(self, other: "Tally") -> None:
        """Takes in what another unit met."""
        for name in ("content_bytes", "bad_records", "text_files", "separated_files"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.undecodable = dict(collections.Counter(self.undecodable) + collections.Counter(other.undecodable))
        self.bad_places = (self.bad_places + other.bad_places)[:FIRST_PLACES]

    def bad_record(self, config: DataConfig, describe: Callable[[], str]) -> None:
        """Counts a record that cannot be read.

        Raises:
          ValueError: ``data.bad_records`` is "refuse".
        """
        if config.bad_records == "refuse":
            raise ValueError(f"{describe()} (data.bad_records=skip leaves out such records)")
        self.bad_records += 1
        if len(self.bad_places) < FIRST_PLACES:
            self.bad_places.append(describe())

    def replaced(self, name: str, num_bytes: int) -> None:
        """Counts bytes that were not UTF-8."""
        if num_bytes:
            self.undecodable[name] = self.undecodable.get(name, 0) + num_bytes

    def check_unit(self, config: DataConfig) -> None:
        """Refuses a unit of input, unless it is small, of which too many bytes are not UTF-8.

        Raises:
          ValueError: so it is.
        """
        if self.content_bytes >= _ENOUGH_BYTES:
            self._check_undecodable(config)

    def check(self, config: DataConfig) -> None:
        """Refuses a whole corpus that is not what the settings say.

        Raises:
          ValueError: too many bytes are not UTF-8, or the separator occurs nowhere.
        """
        self._check_undecodable(config)
        if self.text_files and not self.separated_files:
            separator = config.separator
            typed = " (it holds a backslash: of typed line ends, \\n is read)" if "\\" in (separator or "") else ""
            raise ValueError(
                f"data.document_separator={separator!r} occurs in none of the {self.text_files} text files{typed}: "
                f"correct it, or leave it out to make each file one document"
            )

    def _check_undecodable(self, config: DataConfig) -> None:
        total = sum(self.undecodable.values())
        if total > config.max_undecodable * self.content_bytes:
            name = max(self.undecodable, key=self.undecodable.__getitem__)
            raise ValueError(
                f"{total:,} of {self.content_bytes:,} bytes are not UTF-8 ({self.undecodable[name]:,} of them in "
                f"{name}): over the limit data.max_undecodable={config.max_undecodable:g}: convert such files "
                f"(iconv -f LATIN1 -t UTF-8), leave them out, or raise the limit"
            )

    @property
    def notes(self) -> list[str]:
        """What a person should be told, a sentence each."""
        notes = []
        if self.undecodable:
            total = sum(self.undecodable.values())
            name, count = max(self.undecodable.items(), key=lambda item: item[1])
            notes.append(
                f"replaced {total:,} bytes that are not UTF-8, in {len(self.undecodable)} of the files "
                f"({count:,} in {printable(name)}); data.decode_errors=strict refuses such files"
            )
        if self.bad_records:
            shown = "; ".join(map(printable, self.bad_places))
            more = "" if self.bad_records == len(self.bad_places) else "; ..."
            notes.append(f"left out {self.bad_records:,} records that cannot be read: {shown}{more}")
        if self.separated_files < self.text_files:
            notes.append(
                f"data.document_separator occurs in {self.separated_files:,} of the {self.text_files:,} text files; "
                f"each of the others is one document"
            )
        return notes


def printable(name: str) -> str:
    """A file's name for people: without what no terminal can show, and in one line."""
    return name.encode(errors="replace").decode().replace("\n", "\\n")


def decode(content: bytes, config: DataConfig, *, offset: int = 0) -> tuple[str, int]:
    """The text, and how many bytes were not UTF-8 and now are U+FFFD.

    Args:
      content: whole characters, as far as they are UTF-8.
      config: says what to do with bytes that are not.
      offset: of the content, for the message.

    Raises:
      ValueError: some byte is not, and ``data.decode_errors`` is "strict".
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
