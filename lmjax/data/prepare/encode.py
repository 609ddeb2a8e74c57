"""The work on one unit of input: it is read, split, encoded, and written as one train and one valid shard."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from lmjax.atomic_files import write_json
from lmjax.data.config import DataConfig
from lmjax.data.manifest import SPLITS, Shard, read_json, shard_from_json
from lmjax.data.prepare.conversation import arranged
from lmjax.data.prepare.documents import Document, read_documents, split_document
from lmjax.data.prepare.long_text import blocks_of, end_of
from lmjax.data.prepare.middle import middle_last
from lmjax.data.prepare.pieces import encode_in_pieces
from lmjax.data.prepare.shard_writer import ShardWriter
from lmjax.data.prepare.sources import Piece
from lmjax.data.tally import Tally
from lmjax.tokenizers.chat import read_chat_template
from lmjax.tokenizers.text import texts_before
from lmjax.tokenizers.vocabulary import Vocabulary

BATCH_CHARACTERS = 1 << 20
ENTRIES = "entries"


class Tokenizer(Protocol):
    """The methods of a tokenizer that preparation uses."""

    token_bytes: Any
    """The bytes of text that each id stands for."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The description of its ids."""

    def encode_batch(
        self, texts: Sequence[str], *, after: Sequence[str | None] | None = None, num_threads: int | None = None
    ) -> Sequence[Any]:
        """Token ids (integer sequences) of each text; text never yields special ids.

        ``after`` is the text before each, None for one that begins a document.
        """

    def save(self, folder: pathlib.Path) -> Any:
        """Writes the tokenizer to a folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The settings that all units of a preparation share.

    ``num_threads`` is the tokenizer's (default: its own); ``special_names`` are its special tokens.
    """

    config: DataConfig
    vocabulary: Vocabulary
    folder: pathlib.Path
    num_threads: int | None = None
    special_names: tuple[str, ...] = ()


def entry_path(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Returns the path of a unit's entry. The file exists if the unit is done, and holds its part of the manifest."""
    return folder / ENTRIES / f"{number:05d}.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """The part of the manifest that a finished unit adds."""

    shards: tuple[Shard, ...]
    empty_documents: int
    tally: Tally


def read_entry(folder: pathlib.Path, number: int) -> Entry | None:
    """Reads the entry of a unit; ``None`` if it is missing or damaged, and the unit must be done."""
    try:
        content = read_json(entry_path(folder, number))
        shards = tuple(map(shard_from_json, content["shards"]))
        tally = Tally.from_json(content["tally"])
        return Entry(shards=shards, empty_documents=int(content["empty_documents"]), tally=tally)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def encode_unit(
    job: Job, tokenizer: Tokenizer, number: int, unit: Sequence[Piece], advance: Callable[[int], None]
) -> None:
    """Writes the shards of one unit, and after them its entry."""
    writers = {
        split: ShardWriter(
            job.folder,
            f"{split}-{number:05d}",
            split=split,
            vocabulary_size=job.vocabulary.size,
            weighted=job.config.weighted,
            with_ids=job.config.id_field is not None,
        )
        for split in SPLITS
    }
    tally = Tally()
    empty_documents = 0
    try:
        for batch in _batches_of_documents(job, unit, tally, advance):
            if batch[0][1].is_long:
                _write_long(job, tokenizer, batch[0][1], writers[batch[0][0]])
            else:
                empty_documents += _write_batch(job, tokenizer, batch, writers)
        tally.check_unit(job.config)
        shards = [shard for split in SPLITS if (shard := writers[split].finish()) is not None]
    except BaseException:
        for writer in writers.values():
            writer.discard()
        raise
    entry = {
        "shards": [dataclasses.asdict(shard) for shard in shards],
        "empty_documents": empty_documents,
        "tally": dataclasses.asdict(tally),
    }
    write_json(entry_path(job.folder, number), entry)


def _batches_of_documents(
    job: Job, unit: Sequence[Piece], tally: Tally, advance: Callable[[int], None]
) -> Iterator[list[tuple[str, Document]]]:
    """Yields (split, document) pairs in batches of about a megabyte, so that a tokenizer can use its threads.

    A document that is too long for memory is a batch by itself.
    """
    config = job.config
    template = read_chat_template(config.chat_template)
    batch: list[tuple[str, Document]] = []
    characters = 0
    for piece in unit:
        left = piece.end - piece.begin

        def advance_within_piece(count: int) -> None:
            nonlocal left
            # A reader looks past the end of its piece to finish the last line.
            advance(min(count, left))
            left -= min(count, left)

        for document in read_documents(config, piece, advance=advance_within_piece, tally=tally, folder=job.folder):
            for split, share in split_document(config, document).items():
                if share.is_long:
                    if batch:
                        yield batch
                    yield [(split, middle_last(config, share))]
                    batch, characters = [], 0
                    continue
                batch.append((split, arranged(middle_last(config, share), template, job.special_names)))
                characters += share.num_characters
            if characters >= BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
    if batch:
        yield batch


def _write_batch(
    job: Job, tokenizer: Tokenizer, batch: Sequence[tuple[str, Document]], writers: dict[str, ShardWriter]
) -> int:
    """Encodes and writes documents; returns how many of them had no text.

    The texts of an example follow each other in one shard; an example in which any text is empty is left out.
    """
    config, vocabulary = job.config, job.vocabulary
    before_each, after_each = _edges(job)
    texts = [text for _, document in batch for text in document.held_texts]
    befores = [before for _, document in batch for before in _texts_before(config, document)]
    encoded = iter(tokenizer.encode_batch(texts, after=befores, num_threads=job.num_threads))
    empty_documents = 0
    for split, document in batch:
        markers = document.markers or ((),) * len(document.parts)
        parts = [
            (text, weight, np.concatenate([_marker_ids(vocabulary, names), np.asarray(next(encoded), np.int64)]))
            for text, (_, weight), names in zip(document.held_texts, document.parts, markers, strict=True)
        ]
        size = len(parts) // config.num_members
        members = [parts[start : start + size] for start in range(0, len(parts), size)]
        if not all(any(ids.size for _, _, ids in member) for member in members):
            empty_documents += 1
            continue
        for member in members:
            found, weights = [ids for _, _, ids in member], None
            # A chat template may have put these tokens already.
            before = [] if before_each == found[0][:1].tolist() else before_each
            after = [] if after_each == found[-1][-1:].tolist() else after_each
            if config.weighted:
                lengths = [len(before), *(ids.size for ids in found), len(after)]
                weights = np.repeat([member[0][1], *(weight for _, weight, _ in member), member[-1][1]], lengths)
            writers[split].add(
                np.concatenate([np.asarray(before, np.int64), *found, np.asarray(after, np.int64)]),
                text_bytes=sum(len(text.encode()) for text, _, _ in member),
                weights=weights,
                document_id=document.id or document.name,
            )
    return empty_documents


def _texts_before(config: DataConfig, document: Document) -> list[str | None]:
    """Returns the text before each part: None at the beginning of a document, "" after a special token."""
    if document.markers:
        return [*document.befores]
    size = len(document.parts) // config.num_members
    befores: list[str | None] = []
    for start in range(0, len(document.parts), size):
        ends = [end_of(text) for text, _ in document.parts[start : start + size]]
        befores += texts_before(ends)
    return befores


def _edges(job: Job) -> tuple[list[int], list[int]]:
    """Returns the ids that are put before and after each document."""
    config, vocabulary = job.config, job.vocabulary
    before = [vocabulary.require("bos", needed_by="data.add_bos=True")] if config.add_bos else []
    after = [vocabulary.require("eos", needed_by="data.add_eos=True")] if config.add_eos else []
    return before, after


def _write_long(job: Job, tokenizer: Tokenizer, document: Document, writer: ShardWriter) -> None:
    """Encodes and writes a long document piece by piece."""

    def put(ids: Sequence[int] | np.ndarray, weight: float = 1.0) -> None:
        writer.add_part(ids, weights=np.full(len(ids), weight) if job.config.weighted else None)

    before, after = _edges(job)
    put(before)
    text_bytes = 0
    markers = document.markers or ((),) * len(document.parts)
    befores = _texts_before(job.config, document)
    for (text, weight), names, earlier in zip(document.parts, markers, befores, strict=True):
        put(_marker_ids(job.vocabulary, names))
        pieces = encode_in_pieces(
            tokenizer, blocks_of(text), after=earlier, name=document.name, num_threads=job.num_threads
        )
        for ids in pieces:
            put(ids, weight)
        text_bytes += sum(len(block.encode()) for block in blocks_of(text))
    put(after)
    writer.end_document(text_bytes=text_bytes, document_id=document.id or document.name)


def _marker_ids(vocabulary: Vocabulary, names: Sequence[str]) -> np.ndarray:
    return np.asarray([vocabulary.require(name, needed_by="the text's special tokens") for name in names], np.int64)
