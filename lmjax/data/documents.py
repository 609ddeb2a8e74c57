"""Reading documents out of text files and JSON lines, one at a time, without trusting any of them."""

import dataclasses
import functools
import gzip
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from lmjax.data.config import DataConfig
from lmjax.data.sources import Piece, find_files

BLOCK_BYTES = 1 << 20
REPLACEMENT = "\ufffd"
MAX_WEIGHT = 65504.0
"""The largest loss weight: weights are stored in half precision."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """Some text in parts, each with the loss weight of its tokens.

    Attributes:
      name: the file (and line) it came from.
      parts: (text, loss weight) pairs; the document is their concatenation. Of an example of several
        texts (``data.members``) they are those of one member after the other, equally many of each.
      undecodable_bytes: bytes that were not UTF-8 and were replaced.
      markers: for each part, the names of the special tokens before it; empty for none at all.
      befores: with markers, the text that stands before each part in the document, whose order the parts have left.
    """

    name: str
    parts: tuple[tuple[str, float], ...]
    undecodable_bytes: int = 0
    markers: tuple[tuple[str, ...], ...] = ()
    befores: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(text for text, _ in self.parts)


def read_documents(
    config: DataConfig, piece: Piece, *, advance: Callable[[int], None] = lambda count: None
) -> Iterator[Document]:
    """The documents of a piece, in order, empty ones too.

    Args:
      config: how to read.
      piece: what to read.
      advance: called with the number of bytes of the file read since the last call.

    Raises:
      ValueError: a malformed line, a truncated compressed file, undecodable bytes under
        ``decode_errors="strict"``; names the file, the line and the field.
    """
    file = piece.file
    if config.members and not file.is_json_lines:
        raise ValueError(
            f"{file.path} is not JSON lines, and data.members={config.members} names fields of them: give .jsonl "
            f"files, or leave data.members empty"
        )
    with open(file.path, "rb") as raw:
        if file.is_json_lines:
            raw.seek(max(piece.begin - 1, 0))
            blocks = _blocks(raw, file.path, file.compression, advance)
            yield from _json_documents(config, piece, _split(blocks, b"\n"))
            return
        blocks = _blocks(raw, file.path, file.compression, advance)
        separator = config.document_separator
        records = _split(blocks, separator.encode()) if separator is not None else iter([b"".join(blocks)])
        for record in records:
            text, bad = _decode(record, config, file.path)
            yield Document(name=file.name, parts=((text, 1.0),), undecodable_bytes=bad)


def _blocks(raw: IO[bytes], path: str, compression: str, advance: Callable[[int], None]) -> Iterator[bytes]:
    """The decompressed content in blocks; a truncated or damaged file is an error, never a short read."""
    position = raw.tell()
    stream = gzip.GzipFile(fileobj=raw) if compression == ".gz" else raw
    try:
        if compression == ".zst":
            read = functools.partial(next, _zstandard_blocks(raw, path), b"")
        else:
            read = functools.partial(stream.read, BLOCK_BYTES)
        while block := read():
            advance(raw.tell() - position)
            position = raw.tell()
            yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: truncated or damaged gzip file ({error}): fetch it again") from None


def _zstandard_blocks(raw: IO[bytes], path: str) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise ValueError(f"{path}: reading .zst files needs zstandard: pip install lmjax[data]") from None
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        # The library's own stream reader ends a truncated frame in silence; a decompressobj can be asked.
        while compressed := raw.read(BLOCK_BYTES):
            while compressed:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                if block := frame.decompress(compressed):
                    yield block
                compressed = frame.unused_data if frame.eof else b""
    except zstandard.ZstdError as error:
        raise ValueError(f"{path}: damaged zstandard file ({error}): fetch it again") from None
    if not frame.eof:
        raise ValueError(f"{path}: truncated zstandard file: fetch it again")


def _split(blocks: Iterator[bytes], separator: bytes) -> Iterator[bytes]:
    """The stretches between separators, holding no more than one of them and a block in memory."""
    held: list[bytes] = []
    rest = b""
    for block in blocks:
        # A separator may straddle two blocks, so the end of the last one is searched again.
        *complete, tail = (rest + block).split(separator)
        if complete:
            yield b"".join(held) + complete[0]
            held = []
            yield from complete[1:]
        keep = max(len(tail) - len(separator) + 1, 0)
        held.append(tail[:keep])
        rest = tail[keep:]
    last = b"".join(held) + rest
    if last:
        yield last


def _decode(content: bytes, config: DataConfig, where: str) -> tuple[str, int]:
    """The text, and how many bytes were not UTF-8 and now are U+FFFD."""
    try:
        return content.decode(), 0
    except UnicodeDecodeError as error:
        if config.decode_errors == "strict":
            raise ValueError(
                f"{where}: byte 0x{content[error.start]:02x} at offset {error.start} is not UTF-8: convert "
                f"the file, or set data.decode_errors=replace"
            ) from None
    text = content.decode(errors="replace")
    replaced = text.count(REPLACEMENT) - content.count(REPLACEMENT.encode())
    kept_bytes = len(text.encode()) - replaced * len(REPLACEMENT.encode())
    return text, len(content) - kept_bytes


def _json_documents(config: DataConfig, piece: Piece, lines: Iterator[bytes]) -> Iterator[Document]:
    """The records whose line begins in the piece; a record belongs to one piece and one only."""
    position = piece.begin
    if piece.begin:
        # Reading began one byte early: up to the first newline all belongs to the piece before.
        position += len(next(lines, b""))
    first_byte = position
    for number, line in enumerate(lines):
        if position >= piece.end and not piece.file.compression:
            return
        position += len(line) + 1
        if not line.strip():
            continue
        try:
            yield _json_document(config, line, piece.file.name)
        except ValueError as error:
            line_number = 1 + number + _count_lines(piece.file.path, first_byte if piece.begin else 0)
            raise ValueError(f"{piece.file.path}, line {line_number}: {error}") from None


def _count_lines(path: str, num_bytes: int) -> int:
    with open(path, "rb") as file:
        count = 0
        while num_bytes > 0 and (block := file.read(min(BLOCK_BYTES, num_bytes))):
            count += block.count(b"\n")
            num_bytes -= len(block)
    return count


def _json_document(config: DataConfig, line: bytes, name: str) -> Document:
    decoded, bad = _decode(line, config, "the line")
    try:
        record = json.loads(decoded)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at column {error.colno}): correct or remove it") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply: correct or remove it") from None
    if not isinstance(record, dict):
        field = config.members[0] if config.members else config.text_field
        raise ValueError(f"a JSON {type(record).__name__}, not an object with a {field!r} field")
    prompt = []
    if config.prompt_field is not None:
        prompt.append((_text_of(record, config.prompt_field, "prompt_field"), 0.0))
    parts = []
    for field in config.members:
        parts += [*prompt, (_member_of(record, field), 1.0)]
    parts = parts or [*prompt, *_weighted_parts(config, record)]
    clean_parts = []
    for text, weight in parts:
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
    r"""JSON can spell half a character (``"\ud800"``), which no UTF-8 can: treated as undecodable."""
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


def split_document(config: DataConfig, document: Document) -> dict[str, Document]:
    """The document's share of each split, ``"train"`` and ``"valid"``; a split it has no part in is absent.

    By document: a hash of the text decides, so copies of a text are always on the same side. By
    tail: the last ``valid_fraction`` of the characters, as nanoGPT splits tiny Shakespeare.

    Raises:
      ValueError: a tail of a weighted document, which may cut between prompt and response.
    """
    if config.valid_fraction == 0.0:
        return {"train": document}
    if config.split == "tail":
        if config.weighted:
            raise ValueError("data.split=tail cannot divide prompts from responses: use data.split=document")
        text = document.text
        cut = int(len(text) * (1 - config.valid_fraction))
        shares = {"train": text[:cut], "valid": text[cut:]}
        bad = document.undecodable_bytes
        return {
            split: Document(name=document.name, parts=((share, 1.0),), undecodable_bytes=bad if split == "train" else 0)
            for split, share in shares.items()
            if share
        }
    digest = hashlib.blake2b(document.text.encode(), digest_size=8).digest()
    is_valid = int.from_bytes(digest, "little") < config.valid_fraction * 2**64
    return {"valid" if is_valid else "train": document}


def texts(config: DataConfig, split: str = "train") -> Iterator[str]:
    """The texts of a split straight from the source, in order: what a tokenizer is trained on."""
    for file in find_files(config):
        if not file.size:
            continue
        for document in read_documents(config, Piece(file=file, begin=0, end=file.size)):
            share = split_document(config, document).get(split)
            if share is not None and share.text:
                yield share.text
