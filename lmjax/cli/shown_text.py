"""Texts that commands read and print: prompts from files, and text on the terminal while it is made."""

import pathlib
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console

from lmjax.runs.writing import Piece
from lmjax.train.evaluations.json_lines import parse, read_lines


def read_input(text: str) -> str:
    """Returns a text of the command line; for ``-`` it reads standard input.

    Raises:
      ValueError: it is not UTF-8.
    """
    text = sys.stdin.buffer.read().decode(errors="surrogateescape") if text == "-" else text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the prompt is not UTF-8 (at character {error.start}): convert it") from None
    return text


def read_texts(path: pathlib.Path, *, fields: Sequence[str], what: str) -> list[str]:
    r"""Returns the texts of a file with one text in each line, or of JSON lines with a string or an object in each.

    Args:
      path: the file; JSON lines if its name ends in ``.jsonl``. In a plain file ``\n`` is not read as a line break.
      fields: possible names of the field of an object that holds the text; the first one found is used.
      what: what a text is called in messages, such as "prompt".

    Raises:
      ValueError: the file cannot be read, holds no text, or a line is not of this form.
    """
    lines = read_lines(path, f"a {what} a line")
    if path.suffix != ".jsonl":
        return [line.removesuffix("\r") for _, line in lines]
    return [_text_of(line, where, fields) for where, line in lines]


def given_texts(text: str | None, file: pathlib.Path | None) -> list[str]:
    """Returns the texts of a file (see :func:`read_texts`), or the one text of the command line.

    Raises:
      ValueError: they cannot be read.
    """
    return [read_input(text or "")] if file is None else read_texts(file, fields=("text",), what="text")


def _text_of(line: str, where: str, fields: Sequence[str]) -> str:
    content = parse(line, where)
    if isinstance(content, dict):
        content = next((content[name] for name in fields if name in content), None)
    if not isinstance(content, str):
        raise ValueError(f"{where} is neither a string nor an object with a string {' or '.join(fields)}: correct it")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} has half of a surrogate pair, which is no character: correct it") from None
    return content


class Shown:
    """Prints several texts one after the other; the text whose turn it is appears while it is made."""

    def __init__(self, before: Sequence[str], *, after: str = ""):
        """Begins with nothing printed.

        Args:
          before: for each text, what to print before it, such as its prompt.
          after: what to print after each text.
        """
        self._before, self._after = before, after
        self._waiting: dict[int, str] = {}
        self._ended: set[int] = set()
        self._turn = -1
        self._console = (
            Console(highlight=False, soft_wrap=True, markup=False, emoji=False) if sys.stdout.isatty() else None
        )

    def print(self, pieces: Iterable[Piece]) -> None:
        """Prints all texts, numbered if there are several."""
        self._begin_next()
        for piece in pieces:
            if piece.ended:
                self._ended.add(piece.number)
            if piece.number == self._turn:
                self._write(piece.text)
            else:
                self._waiting[piece.number] = self._waiting.get(piece.number, "") + piece.text
            while self._turn in self._ended:
                self._write(f"{self._after}\n")
                self._begin_next()

    def _begin_next(self) -> None:
        self._turn += 1
        if self._turn >= len(self._before):
            return
        if len(self._before) > 1:
            self._write(f"--- {self._turn + 1}\n", style="dim")
        self._write(self._before[self._turn], style="bold")
        self._write(self._waiting.pop(self._turn, ""))

    def _write(self, text: str, *, style: str | None = None) -> None:
        if not text:
            return
        if self._console is not None:
            self._console.print(text, style=style, end="")
        else:
            sys.stdout.write(text)
        sys.stdout.flush()
