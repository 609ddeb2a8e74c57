"""Records of tables: Parquet, Arrow (as `datasets` saves it) and ArrayRecord, a part at a time."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from lmjax.data.config import DataConfig
from lmjax.data.prepare.fields import document_of, read_fields
from lmjax.data.prepare.record import Document
from lmjax.data.prepare.sources import Piece
from lmjax.data.prepare.storage import is_address
from lmjax.data.tally import Tally

_ROWS_AT_ONCE = 1 << 10
_RECORDS_AT_ONCE = 1 << 8


def table_documents(
    config: DataConfig,
    piece: Piece,
    raw: IO[bytes],
    tally: Tally,
    *,
    advance: Callable[[int], None],
    places: bool,
    kept_fields: Sequence[str] = (),
) -> Iterator[Document]:
    """Yields the documents of a table, or of a piece of one, in order.

    A piece of a Parquet file has the row groups that begin in it, one of an ArrayRecord file a share of the records.

    Args:
      config: says which columns make a document.
      piece: the part to read.
      raw: the open file.
      tally: counts records that are left out.
      advance: called with the number of bytes of the file that are done since the last call.
      places: whether documents must know their place in the file; it is told in rows.
      kept_fields: further columns to keep beside the text, where the table has them.

    Raises:
      ValueError: a package is not installed, the file is damaged, or a record cannot be read.
    """
    layout, path = piece.file.format.layout, piece.file.path
    rows = {"parquet": _parquet_rows, "arrow": _arrow_rows, "array_record": _array_records}[layout]
    damages: tuple[type[Exception], ...] = (OSError, RuntimeError, UnicodeDecodeError, *_arrow_errors())
    done = 0
    try:
        for number, total, row in rows(config, piece, raw, kept_fields):
            problem, document = "", None
            try:
                document = document_of(config, row, piece.file.name, kept_fields=kept_fields)
            except ValueError as error:
                problem = str(error)
            share = round((piece.end - piece.begin) * min(number + 1, total) / max(total, 1))
            advance(max(share - done, 0))
            done = max(share, done)
            if document is None:
                tally.bad_record(config, lambda n=number, p=problem: f"{path}, row {n}: {p}")  # type: ignore[misc]
                continue
            tally.content_bytes += sum(len(text.encode()) for text in document.held_texts)
            tally.replaced(piece.file.name, document.undecodable_bytes)
            span = (number, number + 1, total) if places else None
            yield Document(**{**vars(document), "span": span})
    except damages as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: damaged ({why}): fetch it again") from None


def _arrow(path: str) -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"{path}: reading parquet and Arrow files needs pyarrow: pip install 'lmjax[data]'") from None
    return pyarrow


def _arrow_errors() -> tuple[type[Exception], ...]:
    try:
        import pyarrow
    except ImportError:
        return ()
    return (pyarrow.ArrowException,)


def _columns(config: DataConfig, names: list[str], path: str, kept_fields: Sequence[str]) -> list[str]:
    """Returns the columns that hold the fields of a document, and those to keep that are there.

    Raises:
      ValueError: there is none for a field.
    """
    columns = []
    for field in read_fields(config):
        column = field if field in names else field.partition(".")[0]
        if column not in names:
            raise ValueError(
                f"{path}: no column {field!r} (it has {', '.join(map(repr, names[:8]))}): set data.text_field, or "
                f"data.template"
            )
        columns.append(column)
    for field in kept_fields:
        columns += [column for column in (field, field.partition(".")[0]) if column in names][:1]
    return list(dict.fromkeys(columns))


def _parquet_rows(
    config: DataConfig, piece: Piece, raw: IO[bytes], kept_fields: Sequence[str]
) -> Iterator[tuple[int, int, dict]]:
    """Yields (number of the row in the file, number of its rows, its fields); memory is bounded by a row group."""
    path = piece.file.path
    # Checksums of pages are compared where the writer has made them.
    file = _arrow(path).parquet.ParquetFile(raw, page_checksum_verification=True)
    columns = _columns(config, file.schema_arrow.names, path, kept_fields)
    first, last, total = 0, 0, file.metadata.num_rows
    for group in range(file.metadata.num_row_groups):
        facts = file.metadata.row_group(group)
        begin = min(_first_byte(facts.column(c)) for c in range(facts.num_columns))
        # The list of row groups has no checksum; one that is nowhere would be in no piece.
        if not last <= begin < piece.file.size or facts.num_rows < 0:
            raise ValueError(f"{path}: damaged (row group {group} begins at byte {begin}): fetch it again")
        last = begin
        if piece.begin <= begin < piece.end:
            number = first
            for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    yield number, total, row
                    number += 1
            if number != first + facts.num_rows:
                raise ValueError(f"{path}: damaged (row group {group} has {number - first} rows): fetch it again")
        first += facts.num_rows
    if first != total:
        raise ValueError(f"{path}: damaged (its row groups have {first} rows, and it says {total}): fetch it again")


def _first_byte(column: Any) -> int:
    dictionary = column.dictionary_page_offset
    return column.data_page_offset if dictionary is None else min(dictionary, column.data_page_offset)


def _arrow_rows(
    config: DataConfig, piece: Piece, raw: IO[bytes], kept_fields: Sequence[str]
) -> Iterator[tuple[int, int, dict]]:
    """Yields (number, number of rows if it is known, fields) of an Arrow file or stream, batch by batch."""
    path = piece.file.path
    arrow = _arrow(path)
    is_file = raw.read(6) == b"ARROW1"
    raw.seek(0)
    reader = arrow.ipc.open_file(raw) if is_file else arrow.ipc.open_stream(raw)
    batches = (reader.get_batch(n) for n in range(reader.num_record_batches)) if is_file else iter(reader)
    columns = _columns(config, reader.schema.names, path, kept_fields)
    number, total = 0, 1 << 40
    if config.split == "tail":
        # A stream does not say how many rows it has.
        total = sum(batch.num_rows for batch in batches)
        raw.seek(0)
        reader = arrow.ipc.open_file(raw) if is_file else arrow.ipc.open_stream(raw)
        batches = (reader.get_batch(n) for n in range(reader.num_record_batches)) if is_file else iter(reader)
    for batch in batches:
        chosen = batch.select(columns)
        # The format has no checksums, and Arrow follows a damaged offset out of the buffer.
        chosen.validate(full=True)
        for start in range(0, chosen.num_rows, _ROWS_AT_ONCE):
            for row in chosen.slice(start, _ROWS_AT_ONCE).to_pylist():
                yield number, total, row
                number += 1


def _array_records(
    config: DataConfig, piece: Piece, raw: IO[bytes], kept_fields: Sequence[str]
) -> Iterator[tuple[int, int, dict]]:
    """Yields (number, number of records, fields); a record is a JSON object, or a text."""
    del raw, kept_fields
    path = piece.file.path
    if is_address(path):
        raise ValueError(f"{path}: ArrayRecord is read from local files only: fetch it, and give the path it then has")
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(path)
    try:
        if not reader.ok():
            raise ValueError(f"{path}: damaged ArrayRecord file: fetch it again")
        total, size = reader.num_records(), piece.file.size
        begin, end = (total * place // size for place in (piece.begin, piece.end))
        for start in range(begin, end, _RECORDS_AT_ONCE):
            stop = min(start + _RECORDS_AT_ONCE, end)
            for number, content in enumerate(reader.read(start, stop), start=start):
                yield number, total, _fields_of(config, content, f"{path}, row {number}")
    finally:
        reader.close()


def _fields_of(config: DataConfig, content: bytes, where: str) -> dict:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{where}: neither text nor a JSON object: write one of them, or convert the file") from None
    if text.lstrip().startswith("{"):
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            fields = None
        if isinstance(fields, dict):
            return fields
    return {config.text_field: text}
