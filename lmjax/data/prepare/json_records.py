"""JSON records: each line, or each element of an array, is a document."""

import codecs
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from lmjax.data.config import DataConfig
from lmjax.data.prepare.archives import BLOCK_BYTES
from lmjax.data.prepare.fields import document_of, read_fields
from lmjax.data.prepare.record import Document, decode
from lmjax.data.prepare.sources import Piece
from lmjax.data.prepare.storage import open_file
from lmjax.data.tally import Tally

_LONGEST_INTEGER = 18
_STRUCTURE = re.compile(rb'["\[\]{},]')
_STRING_END = re.compile(rb'\\.|"', re.DOTALL)


class _Record(NamedTuple):
    """The bytes of a record (``None`` if it is too long), and its place in the content."""

    content: bytes | None
    begin: int
    end: int
    describe: Callable[[], str]


def json_documents(
    config: DataConfig,
    piece: Piece,
    blocks: Iterator[bytes],
    tally: Tally,
    *,
    size: int | None = None,
    kept_fields: Sequence[str] = (),
) -> Iterator[Document]:
    """Yields the documents of a file, or of a piece of one, in order.

    Args:
      config: says how to read.
      piece: the part to read: the records that begin in it.
      blocks: its content; unless the piece is the first of its file, it begins one byte before the piece.
      tally: counts replaced bytes and records that are left out.
      size: size of the content; needed if documents must know their place in it.
      kept_fields: further fields to keep beside the text.

    Raises:
      ValueError: a record that cannot be read, unless such are left out; or an array that is not one.
    """
    records = _elements if piece.file.format.layout == "array" else _lines
    for record in records(piece, blocks, config.max_record_bytes):
        tally.content_bytes += record.end - record.begin
        problem, document = "", None
        try:
            document = _document(config, record, piece.file.name, kept_fields)
        except ValueError as error:
            problem = str(error)
        except RecursionError:
            problem = "JSON nested too deeply: correct or remove it"
        if document is None:
            tally.bad_record(config, lambda r=record, p=problem: f"{piece.file.path}, {r.describe()}: {p}")  # type: ignore[misc]
            continue
        tally.replaced(piece.file.name, document.undecodable_bytes)
        span = None if size is None else (record.begin, record.end, size)
        yield document if span is None else Document(**{**vars(document), "span": span})


def _lines(piece: Piece, blocks: Iterator[bytes], max_bytes: int) -> Iterator[_Record]:
    """Yields the lines that begin in the piece and are not blank, so that each line belongs to exactly one piece."""
    lines = _bounded_lines(blocks, max_bytes)
    position = piece.begin
    if piece.begin:
        # Reading began one byte early: the bytes up to the first newline belong to the piece before.
        position += next(lines, (b"", 0))[1]
    first_byte = position

    @functools.cache
    def lines_before() -> int:
        return _count_lines(piece.file.path, first_byte if piece.begin else 0)

    for number, (line, length) in enumerate(lines):
        if position >= piece.end and piece.file.is_divisible:
            return
        end = position + length
        if line is None or line.strip():
            yield _Record(line, position, end, lambda number=number: f"line {1 + number + lines_before()}")  # type: ignore[misc]
        position = end + 1


def _bounded_lines(blocks: Iterable[bytes], max_bytes: int) -> Iterator[tuple[bytes | None, int]]:
    """Yields (line, its length); a line longer than ``max_bytes`` is ``None`` and not kept in memory."""
    held: list[bytes] = []
    length = 0
    for block in blocks:
        *complete, tail = block.split(b"\n")
        for part in complete:
            length += len(part)
            yield (b"".join([*held, part]) if length <= max_bytes else None), length
            held, length = [], 0
        length += len(tail)
        held = [*held, tail] if length <= max_bytes else []
    if length:
        yield (b"".join(held) if length <= max_bytes else None), length


def _count_lines(path: str, num_bytes: int) -> int:
    with open_file(path) as file:
        count = 0
        while num_bytes > 0 and (block := file.read(min(BLOCK_BYTES, num_bytes))):
            count += block.count(b"\n")
            num_bytes -= len(block)
    return count


def _elements(piece: Piece, blocks: Iterator[bytes], max_bytes: int) -> Iterator[_Record]:
    """Yields the elements of a JSON array, which are found by brackets, commas and strings.

    Raises:
      ValueError: the array does not end, or does not end the file.
    """
    path = piece.file.path
    number = depth = position = begin = 0
    in_string = False
    held: list[bytes] = []
    num_held = 0
    rest = b""

    def hold(content: bytes) -> None:
        nonlocal num_held, held
        num_held += len(content)
        held = [*held, content] if num_held <= max_bytes else []

    def finish(end: int) -> Iterator[_Record]:
        nonlocal number, held, num_held
        content = b"".join(held) if num_held <= max_bytes else None
        if content is None or content.strip():
            number += 1
            yield _Record(content, begin, end, lambda number=number: f"record {number}")  # type: ignore[misc]
        held, num_held = [], 0

    for block in blocks:
        content, place, start = rest + block, 0, 0
        rest = b""
        while match := (_STRING_END if in_string else _STRUCTURE).search(content, place):
            place, sign = match.end(), match[0]
            if in_string or sign == b'"':
                in_string = sign != b'"' if in_string else True
                continue
            if depth == 1 and sign in b",]":
                hold(content[start : match.start()])
                yield from finish(position + match.start())
            if sign in b"[{":
                depth += 1
            elif sign in b"]}":
                depth -= 1
            if depth == 0:
                if content[place:].strip() or any(block.strip() for block in blocks):
                    raise ValueError(f"{path}: there is more after the JSON array ends: give one array, or JSON lines")
                return
            if depth == 1 and sign in b"[,":
                start, begin = place, position + place
        if in_string and content.endswith(b"\\"):
            # The escaped character is in the next block.
            backslashes = len(content) - len(content.rstrip(b"\\"))
            rest = content[len(content) - backslashes % 2 :] if backslashes % 2 else b""
        kept = len(content) - len(rest)
        if depth:
            hold(content[start:kept])
        position += kept
    raise ValueError(
        f"{path}: its JSON array does not end (after {number} records): the file is truncated, or not JSON"
    )


def _integer(digits: str) -> int | float:
    # Python refuses numbers with thousands of digits; no field that lmjax reads is such a number.
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)


def _document(config: DataConfig, record: _Record, name: str, kept_fields: Sequence[str]) -> Document:
    if record.content is None:
        raise ValueError(
            f"a record of {record.end - record.begin:,} bytes, over the limit data.max_record_bytes="
            f"{config.max_record_bytes}: raise it, or remove the record"
        )
    if b"\0" in record.content:
        raise ValueError("NUL bytes, as a file has that was not written to its end: correct or remove it")
    # Joining files that each have a byte-order mark (`cat`) leaves marks in the middle.
    decoded, bad = decode(record.content.removeprefix(codecs.BOM_UTF8), config)
    try:
        fields = json.loads(decoded, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at column {error.colno}): correct or remove it") from None
    if not isinstance(fields, dict):
        raise ValueError(f"a JSON {type(fields).__name__}, not an object with a {read_fields(config)[0]!r} field")
    return document_of(config, fields, name, undecodable=bad, kept_fields=kept_fields)
