"""Text files: the documents between separators, of any length."""

import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import IO

from lmjax.data.config import DataConfig
from lmjax.data.prepare.long_text import LONG_CHARACTERS, LongTextWriter, Text
from lmjax.data.prepare.record import Document, decode
from lmjax.data.prepare.sources import Piece, SourceFile
from lmjax.data.tally import Tally

_BACK_BYTES = 1 << 12


def text_documents(
    config: DataConfig,
    piece: Piece,
    blocks: Iterator[bytes],
    tally: Tally,
    *,
    start: int = 0,
    size: int | None = None,
    folder: pathlib.Path | None = None,
) -> Iterator[Document]:
    """Yields the documents of a text file that begin in a piece of it, in order.

    Args:
      config: says how to read.
      piece: the part of the file to read.
      blocks: the content of the file from ``start`` on.
      tally: counts replaced bytes and records that are left out.
      start: the place in the content with which ``blocks`` begin: 0, or :func:`place_before` the piece.
      size: size of the content; needed if documents must know their place in it.
      folder: the folder for long texts.

    Raises:
      ValueError: a document is not text, and such documents are not left out.
    """
    separator, file = config.separator, piece.file
    end = piece.end if file.is_divisible else None
    position, num_separators = start, 0
    # The document in which a later piece begins belongs to the piece before, unless files are cut at line ends.
    begins = piece.begin == 0 or separator is None
    builder = _Builder(config, folder, position) if begins else None
    for content, separator_bytes in split(blocks, separator):
        if builder is not None:
            builder.add(content)
        position += len(content) + separator_bytes
        if separator_bytes:
            num_separators += 1
            if builder is not None:
                yield from builder.finish(file, tally, size=size)
            if end is not None and position >= end:
                builder = None
                break
            builder = _Builder(config, folder, position) if position >= piece.begin else None
    if builder is not None and (builder.num_bytes or (separator is None and piece.begin == 0)):
        yield from builder.finish(file, tally, size=size)
    # The first piece reads up to the first separator, so it alone can tell whether there is one.
    if separator is not None and piece.begin == 0:
        tally.text_files += 1
        tally.separated_files += num_separators > 0


def place_before(raw: IO[bytes], begin: int, separator: str) -> int:
    """Returns a place from which separators are found as they are from the beginning of the file.

    It lies before every separator that ends at ``begin`` or later, and no separator crosses it, for the byte before it
    is in none.

    Args:
      raw: the open file, which holds UTF-8.
      begin: a place in the file.
      separator: the text between documents.
    """
    in_separator = {*separator.encode(), *(b"\r" if "\n" in separator else b"")}
    end = max(begin - len(separator.encode()) - separator.count("\n"), 0)
    while end > 0:
        first = max(end - _BACK_BYTES, 0)
        raw.seek(first)
        content = raw.read(end - first)
        for place in range(len(content), 0, -1):
            if content[place - 1] not in in_separator:
                return first + place
        end = first
    return 0


def line_at(raw: IO[bytes], place: int) -> int:
    """Returns where the first line begins after the byte at ``place``; the size of the file if there is none."""
    raw.seek(place)
    while block := raw.read(_BACK_BYTES):
        if (found := block.find(b"\n")) >= 0:
            return place + found + 1
        place += len(block)
    return place


def whole_lines(blocks: Iterable[bytes], start: int, end: int) -> Iterator[bytes]:
    """Yields the lines of ``blocks``, which begin at ``start``, that begin before ``end``."""
    if start >= end:
        return
    for block in blocks:
        # The line that holds the last byte before the end is the last one.
        found = block.find(b"\n", max(end - 1 - start, 0))
        if found >= 0:
            yield block[: found + 1]
            return
        yield block
        start += len(block)


def split(blocks: Iterable[bytes], separator: str | None) -> Iterator[tuple[bytes, int]]:
    """Yields parts of the text, each with the size of the separator that follows; 0 if the document goes on.

    It keeps at most a block and a separator in memory, whatever the distance between separators.
    """
    if separator is None:
        yield from ((block, 0) for block in blocks)
        return
    pattern = _pattern(separator)
    longest = len(separator.encode()) + separator.count("\n")
    rest = b""
    for block in blocks:
        content = rest + block
        place = 0
        for match in pattern.finditer(content):
            yield content[place : match.start()], len(match[0])
            place = match.end()
        # A separator may lie across two blocks, so the end of this block is searched again.
        keep = max(place, len(content) - longest + 1)
        yield content[place:keep], 0
        rest = content[keep:]
    yield rest, 0


def _pattern(separator: str) -> re.Pattern[bytes]:
    """Returns a pattern for the separator; its line ends match both kinds, unless it contains a carriage return."""
    line_end = b"\n" if "\r" in separator else b"\r?\n"
    return re.compile(line_end.join(re.escape(part.encode()) for part in separator.split("\n")))


class _Builder:
    """A document that is being read: its bytes are decoded at once, and it moves to a file if it becomes long."""

    def __init__(self, config: DataConfig, folder: pathlib.Path | None, begin: int):
        self.num_bytes = 0
        self._config = config
        self._folder = folder
        self._begin = begin
        self._unfinished = b""
        self._held: list[str] = []
        self._held_characters = 0
        self._long: LongTextWriter | None = None
        self._undecodable = 0
        self._problem: str | None = None

    def add(self, content: bytes) -> None:
        """Adds the next bytes of the document."""
        offset = self._begin + self.num_bytes - len(self._unfinished)
        self.num_bytes += len(content)
        content = self._unfinished + content
        cut = _whole_characters(content)
        self._unfinished = content[cut:]
        self._take(content[:cut], offset)

    def _take(self, content: bytes, offset: int) -> None:
        if self._problem is not None:
            return
        try:
            if (place := content.find(b"\0")) >= 0:
                raise ValueError(
                    f"the byte at offset {offset + place} is NUL, which no text has: convert the file to text, or "
                    f"leave it out"
                )
            text, undecodable = decode(content, self._config, offset=offset)
        except ValueError as error:
            self._problem = str(error)
            self._held, self._long = [], None
            return
        self._undecodable += undecodable
        self._held.append(text)
        self._held_characters += len(text)
        if self._held_characters > LONG_CHARACTERS:
            self._long = self._long or LongTextWriter(self._folder)
            for held in self._held:
                self._long.write(held)
            self._held = []

    def finish(self, file: SourceFile, tally: Tally, *, size: int | None) -> Iterator[Document]:
        """Yields the document, unless it is left out."""
        self._take(self._unfinished, self._begin + self.num_bytes - len(self._unfinished))
        tally.content_bytes += self.num_bytes
        if self._problem is not None:
            tally.bad_record(self._config, lambda: f"{file.path}: {self._problem}")
            return
        tally.replaced(file.name, self._undecodable)
        if self._long is not None:
            for held in self._held:
                self._long.write(held)
        text: Text = "".join(self._held) if self._long is None else self._long.finish()
        span = None if size is None else (self._begin, self._begin + self.num_bytes, size)
        yield Document(name=file.name, parts=((text, 1.0),), undecodable_bytes=self._undecodable, span=span)


def _whole_characters(content: bytes) -> int:
    """Returns how many bytes to take so that no character is cut; invalid UTF-8 may be cut anywhere."""
    for back in range(1, min(4, len(content)) + 1):
        byte = content[-back]
        if byte < 0x80:
            return len(content)
        if byte >= 0xC0:
            return len(content) - back
    return len(content)
