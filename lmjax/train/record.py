"""What a run remembers besides its configuration: the data it reads, its batch sizes, whether it was ever saved."""

import dataclasses
import json
import pathlib
from typing import Any

from lmjax.atomic_files import write_json
from lmjax.data.manifest import Manifest
from lmjax.train.config_file import from_json
from lmjax.train.corpus import Corpus

RECORD = "record.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFacts:
    """A prepared folder as a run found it.

    Attributes:
      folder: where it was.
      fingerprint: of its content: equal ones give equal rows.
      files: how many files it was made of; None where the manifest does not say.
      documents: for training.
      tokens: for training.
      valid_documents: kept for validation.
      valid_tokens: kept for validation.
    """

    folder: str
    fingerprint: str
    files: int | None
    documents: int
    tokens: int
    valid_documents: int
    valid_tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Kept in a run folder as ``record.json``.

    Attributes:
      data: each folder of the mixture, or the one.
      batch_sizes: pairs (step, rows in a step from there on), the first of step 0.
      last_saved: the last step known to have been saved whole; None before the first.
    """

    data: tuple[DataFacts, ...]
    batch_sizes: tuple[tuple[int, int], ...]
    last_saved: int | None = None

    def at(self, step: int, *, batch_size: int) -> "Record":
        """This record when the run goes on after ``step`` with steps of ``batch_size`` rows."""
        if batch_size == self.batch_sizes[-1][1]:
            return self
        earlier = tuple(pair for pair in self.batch_sizes if pair[0] < step)
        return dataclasses.replace(self, batch_sizes=(*earlier, (step, batch_size)))


def data_facts(corpus: Corpus) -> tuple[DataFacts, ...]:
    """What the folders of a corpus hold now."""
    folders = [pathlib.Path(path) for path in corpus.config.mixture] or [corpus.folder]
    return tuple(_facts(folder, Manifest.load(folder)) for folder in folders)


def _facts(folder: pathlib.Path, manifest: Manifest) -> DataFacts:
    files = manifest.source.get("files")
    return DataFacts(
        folder=str(folder),
        fingerprint=manifest.fingerprint,
        files=files if isinstance(files, int) else None,
        documents=manifest.total("train", "documents"),
        tokens=manifest.total("train", "tokens"),
        valid_documents=manifest.total("valid", "documents"),
        valid_tokens=manifest.total("valid", "tokens"),
    )


def data_changes(before: tuple[DataFacts, ...], now: tuple[DataFacts, ...]) -> list[str]:
    """How the data differ from what they were, a line for each folder; moving a folder is no change."""
    changes = []
    if len(before) != len(now):
        changes.append(f"{len(before)} folders then, {len(now)} now")
    for then, here in zip(before, now, strict=False):
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
    """The record of a run folder; None where there is none, as in runs made before there were records.

    Raises:
      ValueError: it is damaged.
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


def write_record(folder: pathlib.Path, record: Record) -> None:
    """Writes ``record.json``, whole or not at all."""
    write_json(folder / RECORD, dataclasses.asdict(record))
