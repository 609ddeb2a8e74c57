"""JSON records: each line, or each element of an array, is a document."""

import codecs
import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from lmjax.data.config import DataConfig
from lmjax.data.prepare.archives import BLOCK_BYTES
from lmjax.data.prepare.record import REPLACEMENT, Document, decode
from lmjax.data.prepare.sources import Piece
from lmjax.data.tally import Tally

MAX_WEIGHT = 65504.0
"""The largest loss weight: weights are stored in half precision."""
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
    config: DataConfig, piece: Piece, blocks: Iterator[bytes], tally: Tally, *, size: int | None = None
) -> Iterator[Document]:
    """Yields the documents of a file, or of a piece of one, in order.

    Args:
      config: says how to read.
      piece: the part to read: the records that begin in it.
      blocks: its content; unless the piece is the first of its file, it begins one byte before the piece.
      tally: counts replaced bytes and records that are left out.
      size: size of the content; needed if documents must know their place in it.

    Raises:
      ValueError: a record that cannot be read, unless such are left out; or an array that is not one.
    """
    records = _elements if piece.file.format.layout == "array" else _lines
    for record in records(piece, blocks, config.max_record_bytes):
        tally.content_bytes += record.end - record.begin
        problem, document = "", None
        try:
            document = _document(config, record, piece.file.name)
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
    with open(path, "rb") as file:
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


def _document(config: DataConfig, record: _Record, name: str) -> Document:
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
        field = config.members[0] if config.members else config.text_field
        raise ValueError(f"a JSON {type(fields).__name__}, not an object with a {field!r} field")
    prompt = []
    if config.prompt_field is not None:
        prompt.append((_text_of(fields, config.prompt_field, "prompt_field"), 0.0))
    parts = []
    for field in config.members:
        parts += [*prompt, (_member_of(fields, field), 1.0)]
    parts = parts or [*prompt, *_weighted_parts(config, fields)]
    clean_parts = []
    for text, weight in parts:
        if "\0" in text:
            raise ValueError(
                f"character {text.index(chr(0))} of a text is NUL, which no text has: correct or remove it"
            )
        clean, replaced = _without_surrogates(text, config)
        clean_parts.append((clean, weight))
        bad += replaced
    return Document(name=name, parts=tuple(clean_parts), undecodable_bytes=bad)


def _field(record: dict, field: str, option: str) -> object:
    if field not in record:
        has = ", ".join(map(repr, list(record)[:8])) or "none"
        raise ValueError(f"no field {field!r} (it has {has}): set data.{option} or correct the record")
    return record[field]


def _text_of(record: dict, field: str, option: str) -> str:
    value = _field(record, field, option)
    if not isinstance(value, str):
        raise ValueError(f"field {field!r} is {_short(value)}, not text: correct the record, or set data.{option}")
    return value


def _member_of(record: dict, field: str) -> str:
    text = _text_of(record, field, "members")
    if not text.strip():
        raise ValueError(f"field {field!r} is {_short(text)}, and an example needs all its texts: correct or remove it")
    return text


def _weighted_parts(config: DataConfig, record: dict) -> list[tuple[str, float]]:
    if config.weight_field is None:
        return [(_text_of(record, config.text_field, "text_field"), 1.0)]
    weights = _field(record, config.weight_field, "weight_field")
    if not isinstance(weights, list):
        return [(_text_of(record, config.text_field, "text_field"), _weight(weights, config.weight_field))]
    texts = _field(record, config.text_field, "text_field")
    if not isinstance(texts, list) or len(texts) != len(weights) or not all(isinstance(t, str) for t in texts):
        raise ValueError(
            f"field {config.text_field!r} must be a list of {len(weights)} texts, one for each weight in "
            f"{config.weight_field!r}; it is {_short(texts)}: correct the record"
        )
    return [(text, _weight(weight, config.weight_field)) for text, weight in zip(texts, weights, strict=True)]


def _weight(value: object, field: str) -> float:
    valid = isinstance(value, int | float) and not isinstance(value, bool)
    if not valid or not (math.isfinite(value) and 0 <= value <= MAX_WEIGHT):  # type: ignore[arg-type,operator]
        raise ValueError(f"field {field!r} is {_short(value)}: a loss weight is a number from 0 to {MAX_WEIGHT:.0f}")
    return float(value)  # type: ignore[arg-type]


def _short(value: object) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."


def _without_surrogates(text: str, config: DataConfig) -> tuple[str, int]:
    r"""Replaces half characters: JSON can contain one (``"\ud800"``), UTF-8 cannot. They count as undecodable."""
    try:
        text.encode()
        return text, 0
    except UnicodeEncodeError as error:
        if config.decode_errors == "strict":
            raise ValueError(
                f"character {error.start} of a text is an unpaired surrogate: correct the record, or set "
                f"data.decode_errors=replace"
            ) from None
    clean = "".join(REPLACEMENT if "\ud800" <= character <= "\udfff" else character for character in text)
    return clean, sum("\ud800" <= character <= "\udfff" for character in text)
