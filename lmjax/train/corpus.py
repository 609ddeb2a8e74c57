"""Opens and checks the data of a recipe. If they are missing, it first trains the tokenizer and writes the shards."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable

from lmjax.data.config import DataConfig
from lmjax.data.manifest import MANIFEST, Manifest
from lmjax.data.prepare.documents import texts
from lmjax.data.prepare.prepare import PREPARING, TOKENIZER, prepare, refuse_foreign
from lmjax.data.prepare.sources import find_files, fingerprint
from lmjax.data.rows.pipeline import open_rows
from lmjax.data.rows.source import RowSource
from lmjax.naming import naming_file
from lmjax.objectives import Objective
from lmjax.parallel.distributed import is_primary, wait_for_all
from lmjax.parallel.folder_lock import folder_lock
from lmjax.parallel.signals import kept
from lmjax.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer, load_tokenizer, train_and_save
from lmjax.tokenizers.folder import METADATA
from lmjax.tokenizers.special import role_of

CACHE = pathlib.Path("data")
LONGEST_STEM = 48

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Prepared data and the tokenizer that made it.

    Attributes:
      config: the configuration of the data, which says how rows are cut.
      folder: the prepared folder; the first one of a mixture.
      manifest: the contents of the folder.
      tokenizer: the tokenizer of all its folders.
    """

    config: DataConfig
    folder: pathlib.Path
    manifest: Manifest
    tokenizer: Tokenizer

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
            folder=None if self.config.mixture else self.folder,
            tokenizer_fingerprint=self.tokenizer.fingerprint,
        )

    def whole_rows(self, split: str, *, objective: Objective, sequence_length: int, batch_size: int) -> RowSource:
        """Returns all rows of a split in a fixed order, for evaluations; each token is scored once.

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
            folder=None if self.config.mixture else self.folder,
            tokenizer_fingerprint=self.tokenizer.fingerprint,
            whole=True,
            eos_id=self.tokenizer.vocabulary.eos_id,
        )

    def has(self, split: str) -> bool:
        """Returns whether a split holds any document."""
        return self.manifest.total(split, "documents") > 0


def prepared_corpus(data: DataConfig, folder: pathlib.Path | str, tokenizer: Tokenizer) -> Corpus:
    """Returns a prepared folder as further data of a run; its rows refuse shards of another tokenizer.

    Args:
      data: the data configuration of the run, which says how rows are cut.
      folder: a folder that ``lmjax prepare`` has made.
      tokenizer: the tokenizer of the run.

    Raises:
      ValueError: the folder holds no prepared data.
    """
    folder = pathlib.Path(folder)
    data = dataclasses.replace(data, prepared=str(folder), mixture=(), mixture_weights=())
    return Corpus(data, folder, Manifest.load(folder), tokenizer)


def open_corpus(
    data: DataConfig, tokenizer: TokenizerConfig, *, progress: Progress | None = None, current: bool = False
) -> Corpus:
    """Opens a recipe's data, and first prepares what is not there yet.

    With several processes, the first prepares the data and the others wait. A process that then does not see
    the result, because it has a disk of its own, prepares the data for itself.

    Args:
      data: where the text or the shards are.
      tokenizer: the configuration of the tokenizer that the shards should be made with.
      progress: called with the number of bytes of input that are done, and with that of all bytes.
      current: whether to refuse shards of ``data.prepared`` if the text has changed since they were made; if False,
        the text need not be there any more.

    Raises:
      ValueError: the input is missing or bad, or the shards were made with another tokenizer or in another way.
    """
    if not is_primary():
        wait_for_all("corpus prepared")
    corpus = _open(data, tokenizer, progress, current)
    if is_primary():
        wait_for_all("corpus prepared")
    return corpus


def _open(data: DataConfig, tokenizer: TokenizerConfig, progress: Progress | None, current: bool) -> Corpus:
    given = data.mixture[0] if data.mixture else data.prepared
    folder = pathlib.Path(given) if given is not None else automatic_folder(data, tokenizer)
    if data.mixture or (given is not None and not current and (folder / MANIFEST).exists()):
        manifest = Manifest.load(folder)
        if not data.mixture:
            _check_same_preparation(data, manifest, folder)
        saved = load_tokenizer(folder / TOKENIZER)
        _check_same_tokenizer(tokenizer, saved, folder)
        return Corpus(data, folder, manifest, saved)
    refuse_foreign(folder)
    # A finished folder may be one that we cannot write to. The other processes of a run wait for each other.
    finished = (folder / MANIFEST).exists()
    lock = contextlib.nullcontext() if finished else folder_lock(folder, PREPARING, wait=not is_primary())
    with naming_file(folder), lock:
        made = load_or_train_tokenizer(data, tokenizer, folder / TOKENIZER)
        return Corpus(data, folder, prepare(data, made, folder, progress=progress), made)


def _check_same_preparation(data: DataConfig, manifest: Manifest, folder: pathlib.Path) -> None:
    """Refuses a recipe whose description of the text differs from the one the shards were made with."""
    found = {"path": manifest.source.get("path"), **manifest.settings}
    wanted = {"path": data.path, **data.preparation()}
    for name in {**wanted, **found}:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{folder} was prepared with data.{name}={found.get(name)!r}, here it is {wanted.get(name)!r}: set it "
                f"to that, or prepare into another folder (data.prepared)"
            )


def automatic_folder(data: DataConfig, tokenizer: TokenizerConfig) -> pathlib.Path:
    """Returns the folder of the shards if the recipe names none; its name depends on the input and on how it is cut."""
    files = find_files(data)
    facts = [data.path, data.preparation(), dataclasses.asdict(tokenizer), fingerprint(files)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    stem = pathlib.PurePath(data.path).stem.replace("*", "")[:LONGEST_STEM] or "corpus"
    return CACHE / f"{stem}-{digest}"


def load_or_train_tokenizer(data: DataConfig, config: TokenizerConfig, folder: pathlib.Path) -> Tokenizer:
    """Returns the tokenizer saved in ``folder``; if there is none, it is trained on the training documents first."""
    if (folder / METADATA).exists():
        saved = load_tokenizer(folder)
        _check_same_tokenizer(config, saved, folder)
        return saved
    refuse_foreign(folder.parent)
    again = kept("the tokenizer was not finished: the next start trains it anew")
    with folder_lock(folder.parent, PREPARING), again:
        return train_and_save(config, lambda: texts(data), folder)


def _check_same_tokenizer(config: TokenizerConfig, saved: Tokenizer, folder: pathlib.Path) -> None:
    """Refuses a recipe whose tokenizer cannot be the one the shards were made with."""
    if config.path is not None:
        differs = build_tokenizer(config, lambda: ()).fingerprint != saved.fingerprint
    else:
        kinds_differ = (config.kind or "bytes") != saved.kind
        sizes_differ = config.vocab_size not in (None, saved.vocabulary.size)
        asked = config.all_special_tokens
        saved_names = sorted(saved.special_tokens, key=saved.special_tokens.__getitem__)
        # SentencePiece adds an unknown token even if the recipe does not ask for one.
        names_differ = list(asked) != [name for name in saved_names if name in asked or role_of(name) != "unk"]
        differs = kinds_differ or sizes_differ or names_differ
    if differs:
        raise ValueError(
            f"{folder} holds data made with another tokenizer ({saved.kind}, {saved.vocabulary.size} ids, special "
            f"tokens {' '.join(saved.special_tokens)}) than the recipe's: change the recipe's tokenizer to that, "
            f"or prepare into another folder (data.prepared)"
        )
