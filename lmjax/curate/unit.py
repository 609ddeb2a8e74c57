"""The work on one unit in one stage of a curation: documents are read, judged by the stage's rules, and written.

In ``work/STAGE`` a unit leaves its documents, their keys if the stage ends with a comparison of all documents, and an
entry, which is written last. In the last stage the documents go to the result.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import numpy as np

from lmjax.atomic_files import replacing, write_json
from lmjax.curate.config import Curation
from lmjax.curate.duplicates import KEY_BYTES, Duplicates, Keys
from lmjax.curate.ledger import Count, Ledger
from lmjax.curate.rule import Judge, JudgingRule, require
from lmjax.data.manifest import read_json
from lmjax.data.prepare.archives import decompressed
from lmjax.data.prepare.documents import read_documents
from lmjax.data.prepare.long_text import blocks_of
from lmjax.data.prepare.sources import Piece
from lmjax.data.tally import Tally

WORK, REPORT = "work", "report.json"
COMPRESSED = ".jsonl.zst"
_KEY = np.dtype(f"V{KEY_BYTES}")
EMPTY = -1
"""In ledgers, the number of the first rule of all: a document must have text."""


class CurationError(Exception):
    """A rule has failed on a document."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """A part of a source that becomes one file of the result; its pieces are read in the first stage."""

    source: str
    name: str
    pieces: Sequence[Piece]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurateUnits:
    """The work on the units in one stage."""

    curation: Curation
    folder: pathlib.Path
    stage: int

    def is_done(self, number: int) -> bool:
        """Returns whether a unit has its entry; entries are removed when there is a report."""
        return self._entry(number).exists() or (self.folder / REPORT).exists()

    def claim(self, number: int) -> pathlib.Path:
        """Returns the folder that is locked while a unit is being worked on."""
        return self.path(number, ".claim")

    def path(self, number: int, suffix: str) -> pathlib.Path:
        """Returns one of the files that a unit leaves in the stage."""
        return self.folder / WORK / str(self.stage) / f"{number:05d}{suffix}"

    def _entry(self, number: int) -> pathlib.Path:
        return self.path(number, ".json")

    def entry(self, number: int) -> tuple[Ledger, Tally]:
        """Reads what a unit that is done has noted."""
        content = read_json(self._entry(number))
        return Ledger.from_json(content["ledger"]), Tally.from_json(content["tally"])

    def keys(self, number: int) -> np.ndarray:
        """Returns the keys of a unit's documents, V16 [keys, documents], which are read from the disk when used."""
        return np.load(self.path(number, ".npy"), mmap_mode="r")

    @property
    def _numbers(self) -> Sequence[int]:
        return self.curation.stages[self.stage]

    @property
    def comparison(self) -> Duplicates | None:
        """The rule that compares all documents at the end of the stage, if there is one."""
        last = self.curation.rules[self._numbers[-1]] if self._numbers else None
        return last if isinstance(last, Duplicates) else None

    def __call__(self, number: int, item: Unit, advance: Callable[[int], None]) -> None:
        """Does a unit."""
        ledger, tally = Ledger(self.curation.examples), Tally()
        for place in (*self._numbers, *([EMPTY] if self.stage == 0 else [])):
            ledger.account(place, item.source)
        documents = (
            self._raw(item, ledger, tally, advance) if self.stage == 0 else self._remaining(number, item, ledger)
        )
        if self.stage:
            advance(sum(piece.end - piece.begin for piece in item.pieces))
        result = self.folder / item.source / f"{item.name}{COMPRESSED}"
        is_last = self.stage == len(self.curation.stages) - 1
        keys_of = _keys_of(self.comparison) if self.comparison is not None else None
        keys: list[bytes] = []
        kept = ledger.kept.setdefault(item.source, Count()) if is_last else Count()
        with replacing(result if is_last else self.path(number, COMPRESSED)) as file, _compressed(file) as out:
            for document in self._judged(documents, item.source, ledger):
                kept.add(len(document.text.encode()))
                if keys_of is not None:
                    keys += keys_of(document.text)
                out.write(_line(document, with_source=not is_last))
        if self.comparison is not None:
            with replacing(self.path(number, ".npy")) as file:
                np.save(file, np.array(keys, _KEY).reshape(-1, self.comparison.num_keys).T.copy())
        if is_last and not kept.documents:
            result.unlink()
        tally.check_unit(self.curation.reading(item.source))
        write_json(self._entry(number), {"ledger": dataclasses.asdict(ledger), "tally": dataclasses.asdict(tally)})

    def _raw(self, item: Unit, ledger: Ledger, tally: Tally, advance: Callable[[int], None]) -> Iterator[Any]:
        document_class = require("datatrove.data").Document
        config, url_field = self.curation.reading(item.source), self.curation.sources[item.source].url_field
        raw = ledger.raw.setdefault(item.source, Count())
        kept_fields = self.curation.kept_fields(item.source)
        for piece in item.pieces:
            found = read_documents(
                config, piece, advance=advance, tally=tally, folder=self.folder, kept_fields=kept_fields
            )
            for place, read in enumerate(found):
                # The rules need the whole text in memory, however long it is.
                text = "".join(block for part, _ in read.parts for block in blocks_of(part))
                metadata = {**read.kept, "source": item.source}
                if url_field is not None:
                    metadata["url"] = read.kept.get(url_field)
                raw.add(len(text.encode()))
                name = read.id or f"{read.name}{f'@{piece.begin}' if piece.begin else ''}#{place}"
                yield document_class(text=text, id=name, metadata=metadata)

    def _remaining(self, number: int, item: Unit, ledger: Ledger) -> Iterator[Any]:
        """Yields the documents that the stage before has left, without those that its comparison drops."""
        before = dataclasses.replace(self, stage=self.stage - 1)
        rule = before._numbers[-1]
        drops = np.load(before.path(number, ".drops.npy"))
        document_class = require("datatrove.data").Document
        for place, record in enumerate(_records(before.path(number, COMPRESSED))):
            document = document_class(text=record["text"], id=record["id"], metadata=record["metadata"])
            reason = None
            if drops[place]:
                reason = "a copy of an earlier document"
            ledger.judged(rule, item.source, id=document.id, before=document.text, after=document.text, reason=reason)
            if reason is None:
                yield document

    def _judged(self, documents: Iterator[Any], source: str, ledger: Ledger) -> Iterator[Any]:
        rules = {number: self.curation.rules[number] for number in self._numbers}
        judges = [(number, _judge_of(rule)) for number, rule in rules.items() if isinstance(rule, JudgingRule)]
        if self.stage == 0:
            judges.insert(0, (EMPTY, lambda document: None))
        for document in documents:
            for number, judge in judges:
                before = document.text
                try:
                    reason = judge(document)
                except Exception as error:
                    raise CurationError(
                        f"rule {number + 1} ({self.curation.rules[number].name}) has failed on document "
                        f"{document.id!r} of source {source!r}: {type(error).__name__}: {error}"
                    ) from error
                if reason is None and not document.text.strip():
                    reason = "no text" if number == EMPTY else "nothing is left"
                ledger.judged(number, source, id=document.id, before=before, after=document.text, reason=reason)
                if reason is not None:
                    break
            else:
                yield document


@functools.lru_cache(maxsize=64)
def _judge_of(rule: JudgingRule) -> Judge:
    return rule.judge()


@functools.lru_cache(maxsize=8)
def _keys_of(rule: Duplicates) -> Keys:
    return rule.keys()


def check_rules(curation: Curation) -> None:
    """Makes the judges of all rules, so that what they lack is found before any work.

    Raises:
      ValueError: a package or a file is missing.
    """
    require("datatrove.data")
    require("zstandard")
    for number, rule in enumerate(curation.rules):
        try:
            if isinstance(rule, Duplicates):
                _keys_of(rule)
            elif isinstance(rule, JudgingRule):
                _judge_of(rule)
        except ValueError as error:
            raise ValueError(f"rule {number + 1} ({rule.name}): {error}") from None


def _compressed(file: IO[bytes]) -> Any:
    return require("zstandard").ZstdCompressor(level=3, write_checksum=True).stream_writer(file, closefd=False)


def _line(document: Any, *, with_source: bool) -> bytes:
    """Returns a document as a line of JSON: between stages with all that is known of it, else as a record."""
    if with_source:
        record = {"text": document.text, "id": document.id, "metadata": document.metadata}
    else:
        own = {name: value for name, value in document.metadata.items() if name != "source" and value is not None}
        record = {**own, "text": document.text, "id": document.id}
    return json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n"


def _records(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    rest = b""
    with open(path, "rb") as raw:
        for block in decompressed(raw, os.fspath(path), "zstandard"):
            *lines, rest = (rest + block).split(b"\n")
            yield from map(json.loads, lines)
