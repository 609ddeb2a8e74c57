"""The units of a preparation as work that several processes divide among themselves."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from lmjax.data.manifest import MANIFEST
from lmjax.data.mixing import TOKENIZER
from lmjax.data.prepare.encode import ENTRIES, Job, Tokenizer, encode_unit, read_entry
from lmjax.data.prepare.sources import Piece
from lmjax.data.prepare.storage import is_address
from lmjax.parallel.joint_work import Progress, do_all

TokenizerLoader = Callable[[pathlib.Path], Tokenizer]


@dataclasses.dataclass(frozen=True)
class EncodeUnits:
    """The work on the units of a job; in another process it loads the tokenizer that is saved in the job's folder."""

    job: Job
    load_tokenizer: TokenizerLoader
    tokenizer: Tokenizer | None

    def __getstate__(self) -> dict[str, Any]:
        folder = pathlib.Path(os.path.abspath(self.job.folder))
        there = dataclasses.replace(self.job, folder=folder, num_threads=1)
        return {**vars(self), "job": there, "tokenizer": None}

    def is_done(self, number: int) -> bool:
        """Returns whether a unit has its entry; entries are removed when there is a manifest."""
        return read_entry(self.job.folder, number) is not None or (self.job.folder / MANIFEST).exists()

    def claim(self, number: int) -> pathlib.Path:
        """Returns the folder that is locked while a unit is being encoded."""
        return self.job.folder / ENTRIES / f"{number:05d}.claim"

    def __call__(self, number: int, item: Sequence[Piece], advance: Callable[[int], None]) -> None:
        """Encodes a unit."""
        wanted = self.job.vocabulary.fingerprint
        tokenizer = self.tokenizer or _saved_tokenizer(self.job.folder / TOKENIZER, wanted, self.load_tokenizer)
        encode_unit(self.job, tokenizer, number, item, advance)


@functools.lru_cache(maxsize=2)
def _saved_tokenizer(folder: pathlib.Path, wanted: str, load: TokenizerLoader) -> Tokenizer:
    tokenizer = load(folder)
    found = tokenizer.vocabulary.fingerprint
    assert found == wanted, f"the tokenizer saved in {folder} loads as another ({found} for {wanted})"
    return tokenizer


def do_units(
    job: Job,
    units: Sequence[Sequence[Piece]],
    tokenizer: Tokenizer,
    *,
    num_workers: int | None,
    progress: Progress | None,
    load_tokenizer: TokenizerLoader,
    engine: str | None = None,
) -> None:
    """Encodes the units that are not done yet, together with other processes that prepare the same folder.

    Args:
      job: the settings of the preparation.
      units: all units; their entries in the folder of the job tell which are done.
      tokenizer: makes the ids.
      num_workers: processes; by default one for each core, and never more than there are units to do.
      progress: called with the bytes of input that are done, and the bytes in all.
      load_tokenizer: how a worker loads the saved copy of the tokenizer.
      engine: the address of a Dask scheduler, whose workers do the units instead.

    Raises:
      ValueError: bad input.
      WorkerDiedError: a worker died.
    """
    items = dict(enumerate(units if engine is None else map(with_whole_paths, units)))
    sizes = {number: sum(piece.end - piece.begin for piece in unit) for number, unit in items.items()}
    work = EncodeUnits(job, load_tokenizer, tokenizer)
    do_all(work, items, sizes, num_workers=num_workers, engine=engine, progress=progress)


def with_whole_paths(unit: Sequence[Piece]) -> list[Piece]:
    """Returns the pieces with the whole paths of their files, for a worker may have been started in another folder."""
    return [
        piece
        if is_address(piece.file.path)
        else dataclasses.replace(piece, file=dataclasses.replace(piece.file, path=os.path.abspath(piece.file.path)))
        for piece in unit
    ]
