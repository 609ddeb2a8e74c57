"""Prepared data: the shards of a recipe's text, with the tokenizer that made them.

:mod:`lmjax.train.open_corpus` opens them, and first prepares what is not there yet.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

from lmjax.data.config import DataConfig
from lmjax.data.manifest import Manifest
from lmjax.data.mixing import Weights, weights_by_step
from lmjax.data.rows.opening import open_rows
from lmjax.data.rows.source import RowSource
from lmjax.data.stored import local_folder
from lmjax.objectives import Objective
from lmjax.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Prepared data and the tokenizer that made it.

    Attributes:
      config: the configuration of the data, which says how rows are cut.
      folder: the prepared folder; of a mixture, the folder with the tokenizer.
      manifest: the contents of the folder; of a mixture, those of its first source.
      tokenizer: the tokenizer of all its folders.
      sources: the sources of a mixture by name, each a corpus by itself; empty for a single source.
    """

    config: DataConfig
    folder: pathlib.Path
    manifest: Manifest
    tokenizer: Tokenizer
    sources: Mapping[str, "Corpus"] = dataclasses.field(default_factory=dict)

    def rows(
        self, split: str, *, row_length: int, seed: int | None, overlap: int = 0, num_streams: int = 1
    ) -> RowSource:
        """Returns the rows of a split, see :func:`open_rows`. Training rows come from ``Curriculum.rows`` instead."""
        return open_rows(
            self.config,
            split,
            row_length=row_length,
            overlap=overlap,
            num_streams=num_streams,
            seed=seed,
            folder=None if self.sources else self.folder,
            tokenizer_fingerprint=self.tokenizer.fingerprint,
        )

    def whole_rows(self, split: str, *, objective: Objective, sequence_length: int, batch_size: int) -> RowSource:
        """Returns all rows of a split in a fixed order, for evaluations; each token is scored once.

        The sources of a mixture are evaluated one by one, so this is for one source.

        Args:
          split: ``"train"`` or ``"valid"``.
          objective: the objective, which decides how many tokens a row holds.
          sequence_length: T, tokens of a row that the model sees.
          batch_size: number of rows of a batch.
        """
        row_length = objective.row_length(sequence_length)
        return open_rows(
            self.config,
            split,
            row_length=row_length,
            # The tokens of a row beyond the model's positions are only predicted; the next row begins with them.
            overlap=max(row_length - sequence_length, 0),
            num_streams=batch_size,
            seed=None,
            folder=self.folder,
            tokenizer_fingerprint=self.tokenizer.fingerprint,
            whole=True,
            eos_id=self.tokenizer.vocabulary.eos_id,
        )

    def total(self, split: str, quantity: str) -> int:
        """Returns the sum of ``"tokens"``, ``"documents"`` or ``"text_bytes"`` of a split over all sources."""
        return sum(one.manifest.total(split, quantity) for one in self.each())

    def each(self) -> "tuple[Corpus, ...]":
        """Returns the sources of a mixture, or the corpus itself."""
        return tuple(self.sources.values()) or (self,)

    def has(self, split: str) -> bool:
        """Returns whether a split holds any document."""
        return self.total(split, "documents") > 0

    @property
    def weights(self) -> Weights:
        """The shares of the sources of a mixture, stage by stage."""
        return weights_by_step(
            self.config, {name: one.manifest.total("train", "tokens") for name, one in self.sources.items()}
        )

    def below(self, start: pathlib.Path) -> "Corpus":
        """Returns the same corpus, with the relative paths of its folders taken from the folder ``start``."""
        if not self.sources:
            folder = start / self.folder
            return dataclasses.replace(self, folder=folder, config=self.config.single(prepared=str(folder)))
        sources = {name: one.below(start) for name, one in self.sources.items()}
        return dataclasses.replace(
            self, folder=start / self.folder, config=with_folders(self.config, sources), sources=sources
        )


def with_folders(data: DataConfig, sources: Mapping[str, Corpus]) -> DataConfig:
    """Returns the configuration of a mixture that names the folder of each source."""
    folders = {name: str(one.folder) for name, one in sources.items()}
    if data.mixture:
        return dataclasses.replace(data, mixture=tuple(folders.values()))
    named = {name: dataclasses.replace(source, prepared=folders[name]) for name, source in data.sources.items()}
    return dataclasses.replace(data, sources=named, prepared=None)


def prepared_corpus(data: DataConfig, folder: pathlib.Path | str, tokenizer: Tokenizer) -> Corpus:
    """Returns a prepared folder as further data of a run; its rows refuse shards of another tokenizer.

    Args:
      data: the data configuration of the run, which says how rows are cut.
      folder: a folder that ``lmjax prepare`` has made, or the address of a copy.
      tokenizer: the tokenizer of the run.

    Raises:
      ValueError: the folder holds no prepared data.
    """
    folder = local_folder(folder)
    return Corpus(data.single(prepared=str(folder)), folder, Manifest.load(folder), tokenizer)
