"""Reading of documents from text files, JSON records and tables, one at a time; every one is checked."""

import codecs
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from lmjax.data.config import DataConfig
from lmjax.data.prepare.archives import decompressed
from lmjax.data.prepare.formats import TABLES
from lmjax.data.prepare.json_records import json_documents
from lmjax.data.prepare.long_text import Text, blocks_of
from lmjax.data.prepare.record import Document
from lmjax.data.prepare.sources import Piece, SourceFile, find_files, some_pieces
from lmjax.data.prepare.storage import open_file
from lmjax.data.prepare.tables import table_documents
from lmjax.data.prepare.text_records import line_at, place_before, split, text_documents, whole_lines
from lmjax.data.tally import Tally


def read_documents(
    config: DataConfig,
    piece: Piece,
    *,
    advance: Callable[[int], None] = lambda count: None,
    tally: Tally | None = None,
    folder: pathlib.Path | None = None,
    kept_fields: Sequence[str] = (),
) -> Iterator[Document]:
    """Yields the documents of a piece in order, including empty ones.

    Args:
      config: says how to read.
      piece: the part of a file to read.
      advance: called with the number of bytes of the file read since the last call.
      tally: counts replaced bytes and records that are left out.
      folder: the folder for texts that are too long for memory; by default that of temporary files.
      kept_fields: further fields of records to keep beside the text, where a record has them.

    Raises:
      ValueError: a bad record (unless such are left out), a truncated or damaged archive; names the
        file, the line and the field.
    """
    file, tally = piece.file, tally or Tally()
    has_places = config.split == "tail" and config.valid_fraction > 0
    is_text = file.format.layout == "text"
    with open_file(file.path) as raw:
        if file.format.layout in TABLES:
            yield from table_documents(
                config, piece, raw, tally, advance=advance, places=has_places, kept_fields=kept_fields
            )
            return
        size = None
        if has_places and not (is_text and config.separator is None and not file.is_divisible):
            size = file.size if file.is_divisible else _content_size(config, file)
        start = 0
        if file.is_divisible and piece.begin:
            start = piece.begin - 1
            if is_text:
                start = place_before(raw, piece.begin, config.separator) if config.separator else line_at(raw, start)
            raw.seek(start)
        blocks = _content(raw, config, file, advance)
        if is_text and config.separator is None and file.is_divisible:
            blocks = whole_lines(blocks, start, piece.end)
        if is_text:
            yield from text_documents(config, piece, blocks, tally, start=start, size=size, folder=folder)
        else:
            yield from json_documents(config, piece, blocks, tally, size=size, kept_fields=kept_fields)


def _content(
    raw: IO[bytes], config: DataConfig, file: SourceFile, advance: Callable[[int], None] = lambda count: None
) -> Iterator[bytes]:
    """Yields the content as UTF-8, without a byte-order mark, in blocks."""
    mark = file.format.mark_bytes if raw.tell() == 0 else 0
    blocks = decompressed(raw, file.path, file.format.compression, max_expansion=config.max_expansion, advance=advance)
    blocks = _without_mark(blocks, mark) if mark else blocks
    return blocks if file.format.encoding == "utf-8" else _transcoded(blocks, file)


def _content_size(config: DataConfig, file: SourceFile) -> int:
    with open_file(file.path) as raw:
        return sum(map(len, _content(raw, config, file)))


def _without_mark(blocks: Iterator[bytes], mark_bytes: int) -> Iterator[bytes]:
    for block in blocks:
        skipped = min(mark_bytes, len(block))
        mark_bytes -= skipped
        yield block[skipped:]


def _transcoded(blocks: Iterator[bytes], file: SourceFile) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(file.format.encoding)()
    try:
        for block in blocks:
            yield decoder.decode(block).encode()
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file.path} begins with the mark of {file.format.encoding.upper()} and then is not that "
            f"({error.reason}): convert it to UTF-8"
        ) from None


def applicable(config: DataConfig) -> DataConfig:
    """Returns ``config`` without the settings that its files do not use, so that it fits other texts as well."""
    plain = dataclasses.replace(
        config,
        document_separator=None,
        prompt_field=None,
        weight_field=None,
        template=None,
        messages_field=None,
        id_field=None,
        chat_template=DataConfig.chat_template,
        text_field=DataConfig.text_field,
    )
    files = [file for file in find_files(plain) if file.size]
    texts = [file for file in files if file.format.layout == "text"]
    separated = config.separator is not None and any(_holds_separator(config, file) for file in texts)
    settings = plain if len(texts) == len(files) else config
    return dataclasses.replace(settings, document_separator=config.document_separator if separated else None)


def _holds_separator(config: DataConfig, file: SourceFile) -> bool:
    with open_file(file.path) as raw:
        return any(separator_bytes for _, separator_bytes in split(_content(raw, config, file), config.separator))


def split_document(config: DataConfig, document: Document) -> dict[str, Document]:
    """Returns the document's part in each split, ``"train"`` and ``"valid"``; a split without a part is absent.

    By document: a hash of the text decides, so all copies of a text are in the same split. By tail: the last
    ``valid_fraction`` of its file, as nanoGPT splits tiny Shakespeare; of a file of many documents that is its last
    ones, and the end of the one the cut falls into.
    """
    if config.valid_fraction == 0.0:
        return {"train": document}
    if config.split == "tail":
        return _split_at(document, _train_characters(config, document))
    digest = hashlib.blake2b(digest_size=8)
    for text, _ in document.parts:
        for block in blocks_of(text):
            digest.update(block.encode())
    is_valid = int.from_bytes(digest.digest(), "little") < config.valid_fraction * 2**64
    return {"valid" if is_valid else "train": document}


def _train_characters(config: DataConfig, document: Document) -> int:
    """Returns how many of a document's characters are before the cut of its file."""
    share = 1 - config.valid_fraction
    if document.span is not None:
        begin, end, size = document.span
        share = min(max((size * share - begin) / max(end - begin, 1), 0.0), 1.0)
    return int(document.num_characters * share)


def _split_at(document: Document, cut: int) -> dict[str, Document]:
    ((text, weight),) = document.parts
    shares: dict[str, Text] = {"train": text[:cut], "valid": text[cut:]}
    bad = document.undecodable_bytes
    return {
        split: Document(name=document.name, parts=((share, weight),), undecodable_bytes=bad if split == "train" else 0)
        for split, share in shares.items()
        if len(share)
    }


def texts(config: DataConfig, split: str = "train", *, most_bytes: int | None = None, seed: int = 0) -> Iterator[str]:
    """Yields the texts of a split directly from the source, in order; a tokenizer is trained on them.

    A text that is too long for memory comes in parts.

    Args:
      config: says what to read.
      split: ``"train"`` or ``"valid"``.
      most_bytes: of a larger corpus, read only about so many bytes, in pieces that are spread over all files.
      seed: decides which pieces.

    Raises:
      ValueError: as :func:`read_documents` and :meth:`lmjax.data.prepare.record.Tally.check`.
    """
    tally, files = Tally(), find_files(config)
    total = sum(file.size for file in files)
    for piece in some_pieces(files, total if most_bytes is None else most_bytes, seed=seed):
        for document in read_documents(config, piece, tally=tally):
            share = split_document(config, document).get(split)
            if share is None:
                continue
            if share.is_long:
                yield from (block for text, _ in share.parts for block in blocks_of(text))
            elif share.text:
                yield share.text
    tally.check(config)
