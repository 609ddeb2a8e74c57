"""Texts that are too long for memory: they are kept in a file without a name and read in blocks."""

import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

LONG_CHARACTERS = 1 << 22
"""A text with more characters than this is kept in a file."""
BLOCK_CHARACTERS = 1 << 20
END_CHARACTERS = 16


class LongText:
    """A text, or a part of one, that is read whenever it is needed and is never in memory as a whole."""

    def __init__(self, file: IO[bytes], offsets: list[int], begin: int, end: int):
        """Characters ``begin`` to ``end`` of a file of UTF-8.

        Args:
          file: holds the text in blocks of ``BLOCK_CHARACTERS``; it is deleted when nothing refers to it.
          offsets: where each block begins, and where the last one ends, in bytes.
          begin: first character.
          end: character after the last.
        """
        self._file = file
        self._offsets = offsets
        self._begin = begin
        self._end = end

    def __len__(self) -> int:
        return self._end - self._begin

    def __getitem__(self, part: slice) -> "LongText":
        begin, end, step = part.indices(len(self))
        assert step == 1
        return LongText(self._file, self._offsets, self._begin + begin, self._begin + max(begin, end))

    def blocks(self) -> Iterator[str]:
        """Yields the text in parts of at most ``BLOCK_CHARACTERS``."""
        for number in range(self._begin // BLOCK_CHARACTERS, -(-self._end // BLOCK_CHARACTERS)):
            first, last = self._offsets[number : number + 2]
            text = os.pread(self._file.fileno(), last - first, first).decode()
            start = number * BLOCK_CHARACTERS
            yield text[max(self._begin - start, 0) : self._end - start]


class LongTextWriter:
    """Writes a text to a file, part by part."""

    def __init__(self, folder: pathlib.Path | None = None):
        """Opens the file in ``folder`` (default: the folder for temporary files)."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (lives as long as the text)
        self._offsets = [0]
        self._held = ""
        self._size = 0

    def write(self, text: str) -> None:
        """Adds to the text."""
        self._size += len(text)
        self._held += text
        while len(self._held) >= BLOCK_CHARACTERS:
            self._put(self._held[:BLOCK_CHARACTERS])
            self._held = self._held[BLOCK_CHARACTERS:]

    def _put(self, block: str) -> None:
        self._file.write(block.encode())
        self._offsets.append(self._file.tell())

    def finish(self) -> LongText:
        """The text."""
        if self._held:
            self._put(self._held)
        self._file.flush()
        return LongText(self._file, self._offsets, 0, self._size)


Text = str | LongText
"""A text in memory or in a file; both have a length and can be sliced."""


def blocks_of(text: Text) -> Iterable[str]:
    """Yields the text in parts that fit into memory."""
    return (text,) if isinstance(text, str) else text.blocks()


def end_of(text: Text, end: int | None = None) -> str:
    """Returns the last characters of a text (up to ``end``) that can influence how the following text is encoded."""
    end = len(text) if end is None else end
    return "".join(blocks_of(text[max(end - END_CHARACTERS, 0) : end]))
