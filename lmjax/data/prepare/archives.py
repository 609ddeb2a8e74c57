"""Decompression as a stream, in bounded memory and up to a limit; it yields the whole content or raises an error."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

BLOCK_BYTES = 1 << 20
FREE_EXPANSION_BYTES = 1 << 26
"""Bytes of content that ``max_expansion`` does not limit: a small file may well be compressed a thousandfold."""
_ZSTANDARD_INPUT = 1 << 12
"""Compressed bytes that are given to zstandard at once, for its decoder has no limit on the bytes it returns."""
_WINDOW_BYTES = 1 << 31
"""The largest window of the format (``zstd --long=31``); no more memory is taken than a frame asks for."""

MAGIC = {"gzip": b"\x1f\x8b\x08", "zstandard": b"\x28\xb5\x2f\xfd", "bzip2": b"BZh", "xz": b"\xfd7zXZ\x00"}
_SKIPPABLE_FRAME = b"\x2a\x4d\x18"
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")


def compression_of(head: bytes) -> str:
    """Returns the kind of archive that begins with these bytes, a key of :data:`MAGIC`; ``""`` if it is none."""
    if 0x50 <= head[:1].ljust(1)[0] < 0x60 and head[1:4] == _SKIPPABLE_FRAME:
        return "zstandard"
    for name, magic in MAGIC.items():
        # "BZh" alone may begin a text.
        if head.startswith(magic) and (name != "bzip2" or head[4:10] in _BZIP2_BLOCKS):
            return name
    return ""


def decompressed(
    raw: IO[bytes],
    path: str,
    compression: str,
    *,
    max_expansion: float = float("inf"),
    advance: Callable[[int], None] = lambda count: None,
) -> Iterator[bytes]:
    """Yields the content of a file in blocks of about a mebibyte.

    Args:
      raw: the open file, at the position where the archive begins.
      path: the file's name in messages.
      compression: see :func:`compression_of`.
      max_expansion: the largest allowed ratio of the content's size to the archive's.
      advance: called with the number of bytes of the file read since the last call.

    Raises:
      ValueError: a truncated or damaged archive, other bytes after its end, or one that expands too far.
    """
    begin = raw.tell()
    chunks = _chunks(raw, _ZSTANDARD_INPUT if compression == "zstandard" else BLOCK_BYTES, advance)
    if not compression:
        yield from chunks
        return
    size = 0
    for block in _members(chunks, path, compression):
        size += len(block)
        taken = raw.tell() - begin
        if size > max(FREE_EXPANSION_BYTES, max_expansion * taken):
            raise ValueError(
                f"{path}: {taken:,} bytes of this {compression} file hold more than {size:,} of content, and the limit "
                f"is {max_expansion:g} for each: leave the file out, or raise data.max_expansion"
            )
        yield block


def _chunks(raw: IO[bytes], num_bytes: int, advance: Callable[[int], None]) -> Iterator[bytes]:
    while chunk := raw.read(num_bytes):
        advance(len(chunk))
        yield chunk


def _members(chunks: Iterator[bytes], path: str, compression: str) -> Iterator[bytes]:
    """Yields the content of all members (frames, streams) of an archive, one after the other."""
    begin_member, error_kinds = _decoder(path, compression)
    member: Any = None
    taken = whole = 0
    for chunk in chunks:
        while chunk:
            if member is None:
                # Tapes and some tools fill the last block with zeros.
                padding = len(chunk) - len(chunk.lstrip(b"\0")) if whole else 0
                taken, chunk = taken + padding, chunk[padding:]
                if not chunk:
                    break
                member, has_output = begin_member(), False
            try:
                for block in _decode(member, chunk, compression):
                    has_output = True
                    yield block
            except error_kinds as error:
                if whole and not has_output:
                    raise ValueError(
                        f"{path}: after {whole:,} bytes that are a whole {compression} file come others that are none: "
                        f"cut them off if they do not belong to it (head -c {whole}), else fetch the file again"
                    ) from None
                raise ValueError(f"{path}: damaged {compression} file ({error}): fetch it again") from None
            rest = member.unused_data if member.eof else b""
            taken, chunk = taken + len(chunk) - len(rest), rest
            if member.eof:
                member, whole = None, taken
    if member is not None:
        raise ValueError(f"{path}: truncated {compression} file: fetch it again")


def _decode(member: Any, chunk: bytes, compression: str) -> Iterator[bytes]:
    """Yields the content that ``chunk`` adds to a member, in blocks, up to the member's end."""
    if compression == "zstandard":
        yield from filter(None, [member.decompress(chunk)])
        return
    block = member.decompress(chunk, BLOCK_BYTES)
    while block:
        yield block
        if member.eof or len(block) < BLOCK_BYTES:
            return
        block = member.decompress(getattr(member, "unconsumed_tail", b""), BLOCK_BYTES)


def _decoder(path: str, compression: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """Returns a function that makes a decoder for a new member, and the errors that a decoder raises on damage."""
    if compression == "gzip":
        return lambda: zlib.decompressobj(wbits=31), (zlib.error,)
    if compression == "bzip2":
        return bz2.BZ2Decompressor, (OSError, ValueError)
    if compression == "xz":
        return lzma.LZMADecompressor, (lzma.LZMAError,)
    try:
        import zstandard
    except ImportError:
        raise ValueError(f"{path}: reading .zst files needs zstandard: pip install lmjax[data]") from None
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    return decompressor.decompressobj, (zstandard.ZstdError,)
