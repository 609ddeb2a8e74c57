"""The format of a file, recognised by its first bytes: text, JSON lines, a JSON array, or one that cannot be read.

The bytes are more reliable than the name: ``.json.gz`` may hold JSON lines or an array, and a file may have been
compressed or decompressed without a new name.
"""

import codecs
import dataclasses
import functools
import json
import os
import re
from collections.abc import Sequence
from typing import Literal

from lmjax.data.prepare.archives import compression_of, decompressed
from lmjax.data.prepare.storage import open_file

Layout = Literal["text", "lines", "array", "parquet", "arrow", "array_record"]
TABLES = ("parquet", "arrow", "array_record")
HEAD_BYTES = 1 << 13
ARCHIVE_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")

_UNPACK = "unpack it, and give the files in it"
_CONVERT = "convert it to JSON lines"
_LEAVE_OUT = "convert it to text"
# A pattern for the first bytes, the format, and the remedy. Where a text could begin like the format, the pattern
# includes bytes that no text has.
_KNOWN = tuple(
    (re.compile(pattern, re.DOTALL), name, remedy)
    for pattern, name, remedy in (
        (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a zip archive (as .docx, .xlsx, .npz, .pt are)", _UNPACK),
        (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
        (rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
        (rb".{257}ustar(\x00| )", "a tar archive", _UNPACK),
        (rb"!<arch>\n", "an ar archive", _UNPACK),
        (rb"\x04\x22\x4d\x18", "an lz4 file", _UNPACK),
        (rb"\xff\x06\x00\x00sNaPpY", "a snappy file", _UNPACK),
        (rb"\x1f[\x9d\xa0]", "a file of compress (.Z)", _UNPACK),
        (rb"LZIP\x01", "an lzip file", _UNPACK),
        (rb"\x89LZO\x00", "an lzo file", _UNPACK),
        (rb"\x5d\x00\x00.{2}(\xff{8}|.{5}\x00{3})", "an lzma file (.lzma)", _UNPACK),
        (rb"FEA1\x00", "a feather file", f"{_CONVERT} (such as with pyarrow)"),
        (rb"ORC.*[\x00-\x08]", "an ORC file", f"{_CONVERT} (such as with pyarrow)"),
        (rb"Obj\x01", "an Avro file", _CONVERT),
        (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", _CONVERT),
        (rb"SQLite format 3\x00", "an SQLite database", _CONVERT),
        (rb"\x93NUMPY", "a NumPy file", f"{_CONVERT} if it holds text"),
        (rb"\x80[\x02-\x05](\x95|[}\]c(X\x8c])", "a Python pickle", f"{_CONVERT} if it holds text and you trust it"),
        (rb"GGUF.\x00\x00\x00", "a GGUF model", _LEAVE_OUT),
        (rb".{5}\x00\x00\x00\{\s*\"", "a safetensors file", _LEAVE_OUT),
        (rb"\x89PNG\r\n", "a PNG image", _LEAVE_OUT),
        (rb"\xff\xd8\xff", "a JPEG image", _LEAVE_OUT),
        (rb"GIF8[79]a", "a GIF image", _LEAVE_OUT),
        (rb"RIFF.{4}WEBP", "a WebP image", _LEAVE_OUT),
        (rb"RIFF.{4}(WAVE|AVI )", "a sound or film (RIFF)", _LEAVE_OUT),
        (rb"II\x2a\x00|MM\x00\x2a", "a TIFF image", _LEAVE_OUT),
        (rb"BM.{4}\x00{4}", "a BMP image", _LEAVE_OUT),
        (rb"\x00\x00[\x01\x02]\x00.\x00", "an icon", _LEAVE_OUT),
        (rb"8BPS\x00", "a Photoshop image", _LEAVE_OUT),
        (rb"\x00\x00.{2}ftyp", "a film, sound or image (MP4, HEIC)", _LEAVE_OUT),
        (rb"\x1a\x45\xdf\xa3", "a Matroska film", _LEAVE_OUT),
        (rb"ID3[\x02-\x04]|\xff[\xf2\xf3\xfa\xfb]", "an MP3 sound", _LEAVE_OUT),
        (rb"OggS\x00", "an Ogg sound", _LEAVE_OUT),
        (rb"fLaC\x00", "a FLAC sound", _LEAVE_OUT),
        (rb"%PDF-\d", "a PDF", f"{_LEAVE_OUT} (such as with pdftotext)"),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document (.doc, .xls, .ppt)", _LEAVE_OUT),
        (rb"\{\\rtf\d", "an RTF document", _LEAVE_OUT),
        (rb"wOF[F2]|\x00\x01\x00\x00\x00.\x00|OTTO\x00", "a font", _LEAVE_OUT),
        (rb"\x7fELF", "a program (ELF)", _LEAVE_OUT),
        (rb"MZ.{0,200}\x00", "a program (Windows)", _LEAVE_OUT),
        (rb"[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe", "a program (Mach-O, or Java)", _LEAVE_OUT),
        (rb"\x00asm", "a program (WebAssembly)", _LEAVE_OUT),
        (rb"..\r\n\x00\x00\x00\x00", "compiled Python", _LEAVE_OUT),
    )
)  # fmt: skip

_TABLES: tuple[tuple[re.Pattern[bytes], Layout], ...] = (
    (re.compile(rb"PAR1[\x00-\x08\x0e-\x1f]", re.DOTALL), "parquet"),
    (re.compile(rb"ARROW1\x00|\xff{4}.{3}\x00\x10\x00\x00\x00", re.DOTALL), "arrow"),
    (re.compile(rb"\x83\xafp\xd1\r\x88J\?"), "array_record"),
)

_MARKS = (  # The byte-order mark of UTF-32 begins with that of UTF-16, so it is tried first.
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_CONTROLS = bytes(set(range(32)) - set(b"\b\t\n\f\r\x1b"))
"""Control characters but those that texts and terminals have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """The format in which a file is read.

    Attributes:
      compression: see :func:`lmjax.data.prepare.archives.compression_of`.
      encoding: the encoding of the content.
      mark_bytes: size of the byte-order mark that the content begins with.
      layout: text, JSON objects each in a line, a JSON array of objects, or a kind of table.
    """

    compression: str = ""
    encoding: str = "utf-8"
    mark_bytes: int = 0
    layout: Layout = "text"

    def __str__(self) -> str:
        """Returns the name for people, such as "JSON lines, gzip"."""
        names = {"lines": "JSON lines", "array": "JSON array", "arrow": "Arrow", "array_record": "ArrayRecord"}
        name = names.get(self.layout, self.layout)
        encoding = "" if self.encoding == "utf-8" else self.encoding.upper()
        return ", ".join(part for part in (name, encoding, self.compression) if part)


@functools.lru_cache(maxsize=1 << 16)
def recognise(path: str, size: int, modified_ns: int, *, fields: Sequence[str]) -> Format:
    """Recognises the format of a file.

    Args:
      path: the file.
      size: size of the file; the answer is cached for this size and ``modified_ns``.
      modified_ns: time of the file's last change.
      fields: a first line that is a JSON object with one of them means JSON lines, whatever the name.

    Raises:
      ValueError: the format cannot be read; the message names it and says what to do.
    """
    with open_file(path) as raw:
        head = raw.read(HEAD_BYTES)
        compression = compression_of(head)
        if compression:
            raw.seek(0)
            head = _beginning(raw, path, compression)
            if inner := compression_of(head):
                raise ValueError(f"{path} is a {inner} file within a {compression} file: decompress it once")
    for pattern, layout in _TABLES:
        if pattern.match(head) and not compression:
            return Format(layout=layout)
        if pattern.match(head):
            raise ValueError(f"{path} is a {layout} file within a {compression} file: decompress it")
    for pattern, name, remedy in _KNOWN:
        if pattern.match(head):
            within = f" within a {compression} file" if compression else ""
            raise ValueError(f"{path} is {name}{within}, not text: {remedy}, or leave it out")
    mark, encoding = next((known for known in _MARKS if head.startswith(known[0])), (b"", "utf-8"))
    stem, suffix = os.path.splitext(path.lower())
    if suffix in ARCHIVE_SUFFIXES:
        inner_suffix = os.path.splitext(stem)[1]
        if not compression and not mark and not _looks_like(inner_suffix, head):
            raise ValueError(f"{path}: damaged: it is named {suffix}, and is neither that nor text: fetch it again")
        suffix = inner_suffix
    if not mark and (unmarked := _unmarked_encoding(head)):
        raise ValueError(f"{path} is {unmarked}, not UTF-8: convert it (iconv -f {unmarked} -t UTF-8), or leave it out")
    text = head[len(mark) :].decode(encoding, errors="replace")
    layout = _layout(path, suffix, text, is_whole=len(head) < HEAD_BYTES, fields=fields)
    return Format(compression=compression, encoding=encoding, mark_bytes=len(mark), layout=layout)


def _beginning(raw, path: str, compression: str) -> bytes:
    """Returns the first bytes of an archive's content; if it is damaged, the bytes before the damage."""
    head = b""
    blocks = decompressed(raw, path, compression)
    while len(head) < HEAD_BYTES:
        try:
            block = next(blocks, b"")
        except ValueError as error:
            if "pip install" in str(error):
                raise
            return head
        if not block:
            break
        head += block
    return head[:HEAD_BYTES]


def _looks_like(suffix: str, head: bytes) -> bool:
    """Returns whether a file that is named as an archive, but is not one, may be the decompressed content."""
    if suffix in JSON_SUFFIXES and not head.lstrip().startswith((b"{", b"[")):
        return False
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        return "\0" not in decoder.decode(head)
    except UnicodeDecodeError:
        return False


def _unmarked_encoding(head: bytes) -> str:
    """UTF-16 or UTF-32 without a mark; ``""`` for anything else.

    Of mostly Latin letters the other bytes are zeros. Chinese is told by what it decodes to; ASCII text can decode to
    that too, but has no control characters, which Chinese has among its low bytes.
    """
    head = head[: len(head) // 4 * 4]
    if not head:
        return ""
    zeros = [head[place::4].count(0) / (len(head) // 4) for place in range(4)]
    for encoding, expected in (
        ("UTF-32LE", (0, 1, 1, 1)),
        ("UTF-32BE", (1, 1, 1, 0)),
        ("UTF-16LE", (0, 1, 0, 1)),
        ("UTF-16BE", (1, 0, 1, 0)),
    ):
        if all(share > 0.6 if zero else share < 0.1 for share, zero in zip(zeros, expected, strict=True)):
            return encoding
    if len(head.translate(None, delete=_CONTROLS)) > 0.95 * len(head):
        return ""
    for encoding in ("UTF-16LE", "UTF-16BE"):
        text = head.decode(encoding, errors="replace")
        if sum("\u3000" <= character <= "\u9fff" for character in text) > 0.9 * len(text):
            return encoding
    return ""


def _layout(
    path: str, suffix: str, text: str, *, is_whole: bool, fields: Sequence[str]
) -> Literal["text", "lines", "array"]:
    """Returns whether text is JSON lines, a JSON array or plain, by its beginning and the file's name."""
    content = text.lstrip()
    if suffix in JSON_SUFFIXES and content.startswith("["):
        first_line = content.partition("\n")[0]
        # Lines that are arrays are JSON lines with bad records, which are refused one by one.
        closed = _parsed(first_line) is not None and bool(content[len(first_line) :].strip())
        return "lines" if closed else "array"
    lines = content.split("\n", 2)
    if suffix == ".json" and content.startswith("{"):
        object_in_lines = len(lines) > 1 and _parsed(lines[0]) is None and not lines[1].lstrip().startswith('{"')
        if object_in_lines:
            raise ValueError(
                f"{path} is one JSON object over several lines: give JSON lines (an object a line) or an array of "
                f"objects (jq -c '.[]' makes lines of what an object holds), or leave it out"
            )
    if suffix in JSON_SUFFIXES:
        return "lines"
    first = _parsed(lines[0]) if content.startswith("{") and (len(lines) > 1 or is_whole) else None
    return (
        "lines"
        if isinstance(first, dict) and any(field in first or field.partition(".")[0] in first for field in fields)
        else "text"
    )


def _parsed(line: str) -> object | None:
    try:
        return json.loads(line, parse_int=float)
    except (ValueError, RecursionError):
        return None
