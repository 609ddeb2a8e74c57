"""The record of a run, besides its configuration: the data it reads, its batch sizes, and its last save."""

import dataclasses
import json
import pathlib
from typing import Any

from lmjax.atomic_files import write_file
from lmjax.data.manifest import Manifest
from lmjax.data.stored import place_of
from lmjax.train.config import RunConfig
from lmjax.train.config_file import from_json
from lmjax.train.corpus import Corpus
from lmjax.train.curriculum import Curriculum, Gap, curriculum

RECORD = "record.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFacts:
    """The facts about a prepared folder when a run opened it.

    Attributes:
      folder: the path of the folder.
      fingerprint: the fingerprint of its content; equal fingerprints mean equal rows.
      files: the number of files it was made of; None if the manifest does not say.
      documents: number of documents for training.
      tokens: number of tokens for training.
      valid_documents: number of documents kept for validation.
      valid_tokens: number of tokens kept for validation.
      source: the name of the source of a mixture.
    """

    folder: str
    fingerprint: str
    files: int | None
    documents: int
    tokens: int
    valid_documents: int
    valid_tokens: int
    source: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassedOver(Gap):
    """Rows that the run never reads again, because a step with them was faulty (``on_fault=RollBack()``).

    Attributes:
      rows: the numbers of the first of these rows and of the row after the last, at the row length that they had.
      step: the faulty step, from 1.
      reason: what was wrong with it.
    """

    rows: tuple[int, int]
    step: int
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """The record of a run, which is kept in its folder as ``record.json``.

    Attributes:
      data: the facts about each folder of a mixture, or about the only folder.
      batch_sizes: pairs (step, rows of a step from then on), the first of them for step 0.
      last_saved: the last step that is known to have been saved completely; None before the first save.
      passed_over: the rows that were passed over, one entry for each roll-back.
    """

    data: tuple[DataFacts, ...]
    batch_sizes: tuple[tuple[int, int], ...]
    last_saved: int | None = None
    passed_over: tuple[PassedOver, ...] = ()

    def curriculum(self, config: RunConfig) -> Curriculum:
        """Returns the rows of each step of the run, with the batch sizes that it had and the rows that it passed over.

        Args:
          config: the configuration of the run.
        """
        return curriculum(config.objective, config.train, batch_sizes=self.batch_sizes, passed_over=self.passed_over)

    def at(self, step: int, *, batch_size: int) -> "Record":
        """Returns the record of a run that goes on after ``step`` with steps of ``batch_size`` rows."""
        earlier = tuple(pair for pair in self.batch_sizes if pair[0] < step)
        changes = () if earlier and earlier[-1][1] == batch_size else ((step, batch_size),)
        return dataclasses.replace(self, batch_sizes=(*earlier, *changes))

    def weights_fixed_until(self, step: int) -> int:
        """Returns the step from which on a run that has done ``step`` steps may have other weights of its sources.

        The weights of earlier steps also decide which rows are those that were passed over.
        """
        return max([step, *(max(gap.first_step, gap.stages[-1][1] + 1) for gap in self.passed_over)])


def data_facts(corpus: Corpus) -> tuple[DataFacts, ...]:
    """Returns the facts about the folders of a corpus as they are now."""
    # The folders of ``data.mixture`` are told apart by their order, so that they can be moved.
    names = list(corpus.sources) if corpus.config.sources else [None] * len(corpus.each())
    return tuple(
        _facts(one.folder, Manifest.load(one.folder), name) for name, one in zip(names, corpus.each(), strict=True)
    )


def _facts(folder: pathlib.Path, manifest: Manifest, source: str | None) -> DataFacts:
    files = manifest.source.get("files")
    return DataFacts(
        folder=place_of(folder),
        fingerprint=manifest.fingerprint,
        files=files if isinstance(files, int) else None,
        documents=manifest.total("train", "documents"),
        tokens=manifest.total("train", "tokens"),
        valid_documents=manifest.total("valid", "documents"),
        valid_tokens=manifest.total("valid", "tokens"),
        source=source,
    )


def data_changes(before: tuple[DataFacts, ...], now: tuple[DataFacts, ...]) -> list[str]:
    """Returns how the data have changed, one line for each folder; moving a folder is not a change.

    Named sources may be added or left out. Whether that changes rows that the run has read follows from the weights.
    """
    changes = []
    named = all(fact.source is not None for fact in (*before, *now))
    if len(before) != len(now) and not named:
        changes.append(f"{len(before)} folders then, {len(now)} now")
    here_by_name = {fact.source: fact for fact in now}
    pairs = (
        [(then, here_by_name[then.source]) for then in before if then.source in here_by_name]
        if named
        else zip(before, now, strict=False)
    )
    for then, here in pairs:
        if then.fingerprint == here.fingerprint:
            continue
        counts = [
            f"{getattr(then, field):,} {words} then and {getattr(here, field):,} now"
            for field, words in (
                ("files", "files"),
                ("documents", "training documents"),
                ("tokens", "training tokens"),
                ("valid_documents", "validation documents"),
                ("valid_tokens", "validation tokens"),
            )
            if None not in (getattr(then, field), getattr(here, field)) and getattr(then, field) != getattr(here, field)
        ]
        differing = "; ".join(counts) or "as many tokens, but others, or in another order"
        changes.append(f"{here.folder}: {differing}")
    return changes


def read_record(folder: pathlib.Path) -> Record | None:
    """Returns the record of a run folder; None if there is none, as for runs made before there were records.

    Raises:
      ValueError: the record is damaged.
    """
    path = folder / RECORD
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        record = from_json(Record, content, where=str(path))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): restore it, or delete it, and the run goes on with the data as they are"
        ) from None
    if not record.batch_sizes or record.batch_sizes[0][0] != 0:
        raise ValueError(f"{path} is damaged (batch_sizes is {record.batch_sizes}): restore it, or delete it")
    return record


def record_text(record: Record) -> str:
    """Returns the record as the text of a ``record.json``."""
    return json.dumps(dataclasses.asdict(record), indent=1) + "\n"


def write_record(folder: pathlib.Path, record: Record) -> None:
    """Writes ``record.json``; an interruption never leaves a part of the file."""
    write_file(folder / RECORD, record_text(record))
