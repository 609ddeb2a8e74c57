"""From text to token shards: parallel over units of input, resumable, the same bytes however it is run.

A unit of input (see :func:`lmjax.data.sources.plan_units`) becomes one train and one valid shard and
then an entry in ``entries/``; the entry's presence is what makes the unit done. A preparation that
is killed and run again does the units that have no entry, and the manifest is written last.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from lmjax.data.config import DataConfig
from lmjax.data.documents import Document, read_documents, split_document
from lmjax.data.shards import (
    MANIFEST,
    SPLITS,
    Manifest,
    Shard,
    ShardWriter,
    shard_from_json,
    token_dtype,
    write_json,
)
from lmjax.data.sources import Piece, SourceFile, find_files, fingerprint, plan_units
from lmjax.tokenizers.vocabulary import Vocabulary

BATCH_CHARACTERS = 1 << 20
TOKENIZER = "tokenizer"
ENTRIES = "entries"
PLAN = "plan.json"

Progress = Callable[[int, int], None]


class Tokenizer(Protocol):
    """What preparation needs of a tokenizer."""

    vocabulary: Vocabulary

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Token ids of each text; text never yields special ids."""

    def save(self, folder: pathlib.Path) -> Any:
        """Writes the tokenizer to a folder."""


TokenizerLoader = Callable[[pathlib.Path], Tokenizer]


def load_saved_tokenizer(folder: pathlib.Path) -> Tokenizer:
    """The tokenizer saved in a folder."""
    from lmjax.tokenizers import load_tokenizer

    return load_tokenizer(folder)


def prepare(
    config: DataConfig,
    tokenizer: Tokenizer,
    folder: pathlib.Path | str,
    *,
    num_workers: int | None = None,
    progress: Progress | None = None,
    load_tokenizer: TokenizerLoader = load_saved_tokenizer,
) -> Manifest:
    """Tokenizes the corpus into shards in ``folder``; at once when that is already done.

    Args:
      config: what to read, how to split it.
      tokenizer: makes the ids; a copy is saved in ``folder/tokenizer``.
      folder: where the shards go; made if it is not there. A second process that prepares the same
        folder waits for the first.
      num_workers: processes; by default one for each core, and never more than there are units. The
        result does not depend on it. Workers are spawned: a script that calls this with more than
        one needs the usual ``if __name__ == "__main__":``.
      progress: called with bytes of input done and in all.
      load_tokenizer: how a worker loads the saved copy (a function of a module).

    Returns:
      The manifest, as it lies in the folder.

    Raises:
      ValueError: bad input (named), an empty corpus or split, or a folder that holds another preparation.
    """
    folder = pathlib.Path(folder)
    vocabulary = tokenizer.vocabulary
    _require_special_tokens(config, vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one_at_a_time(folder):
        files = find_files(config)
        plan = _plan(config, vocabulary, files)
        if (folder / MANIFEST).exists():
            manifest = Manifest.load(folder)
            _require_same(folder, {key: getattr(manifest, key) for key in plan}, plan)
            return manifest
        _begin(folder, plan, tokenizer)
        units = plan_units(files, config.shard_bytes)
        run = _Run(config=config, vocabulary=vocabulary, folder=folder)
        _do_units(run, units, tokenizer, num_workers=num_workers, progress=progress, load_tokenizer=load_tokenizer)
        manifest = _collect(run, plan, len(units))
        _refuse_empty(config, manifest)
        manifest.save(folder)
        shutil.rmtree(folder / ENTRIES)
        (folder / PLAN).unlink()
        return manifest


def prepared_key(config: DataConfig, vocabulary: Vocabulary) -> str:
    """A name for what :func:`prepare` would make, for use in a folder's name; changes when the content would."""
    plan = json.dumps(_plan(config, vocabulary, find_files(config)), sort_keys=True)
    return hashlib.sha256(plan.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    config: DataConfig
    vocabulary: Vocabulary
    folder: pathlib.Path


def _plan(config: DataConfig, vocabulary: Vocabulary, files: Sequence[SourceFile]) -> dict[str, Any]:
    return {
        "tokenizer_fingerprint": vocabulary.fingerprint,
        "settings": config.preparation(),
        "source": {
            "path": config.path,
            "files": len(files),
            "bytes": sum(file.size for file in files),
            "fingerprint": fingerprint(files),
        },
    }


def _require_special_tokens(config: DataConfig, vocabulary: Vocabulary) -> None:
    for name in ("bos", "eos"):
        if getattr(config, f"add_{name}"):
            vocabulary.require(name, needed_by=f"data.add_{name}=True")


@contextlib.contextmanager
def _only_one_at_a_time(folder: pathlib.Path) -> Iterator[None]:
    # The lock goes with the process, so a killed preparation never blocks the next one.
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _require_same(folder: pathlib.Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for section in wanted:
        if found[section] == wanted[section]:
            continue
        what = "tokenizer"
        if isinstance(wanted[section], dict):
            both = ((key, found[section].get(key), value) for key, value in wanted[section].items())
            key, old, new = next(item for item in both if item[1] != item[2])
            what = f"data.{key} ({old!r} there, {new!r} now)" if section == "settings" else f"source {key}"
        raise ValueError(
            f"{folder} holds data prepared with another {what}: choose another folder (data.prepared), or delete it"
        )


def _begin(folder: pathlib.Path, plan: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Makes the folder ready, whether it is new or a preparation was stopped in it."""
    if (folder / PLAN).exists():
        _require_same(folder, json.loads((folder / PLAN).read_text(encoding="utf-8")), plan)
    elif any(name not in (".lock", TOKENIZER) and not name.endswith(".partial") for name in os.listdir(folder)):
        raise ValueError(f"{folder} is not empty and holds no preparation: choose another folder (data.prepared)")
    for left_over in [*folder.glob(".*.partial"), *folder.glob(f"{ENTRIES}/.*.partial")]:
        left_over.unlink()
    tokenizer.save(folder / TOKENIZER)
    (folder / ENTRIES).mkdir(exist_ok=True)
    write_json(folder / PLAN, plan)


def _entry_path(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / ENTRIES / f"{number:05d}.json"


def _do_units(
    run: _Run,
    units: Sequence[Sequence[Piece]],
    tokenizer: Tokenizer,
    *,
    num_workers: int | None,
    progress: Progress | None,
    load_tokenizer: TokenizerLoader,
) -> None:
    total = sum(piece.end - piece.begin for unit in units for piece in unit)
    missing = [n for n in range(len(units)) if not _entry_path(run.folder, n).exists()]
    to_do = sum(piece.end - piece.begin for n in missing for piece in units[n])
    before = total - to_do
    report = progress or (lambda done, total: None)
    report(before, total)
    num_workers = min(len(missing), num_workers or os.cpu_count() or 1)
    if num_workers <= 1:
        done = before

        def advance(count: int) -> None:
            nonlocal done
            done += count
            report(done, total)

        for number in missing:
            _do_unit(run, tokenizer, number, units[number], advance)
        return
    spawn = multiprocessing.get_context("spawn")
    counter = spawn.Value("q", before)
    pool = concurrent.futures.ProcessPoolExecutor(
        num_workers, mp_context=spawn, initializer=_start_worker, initargs=(run, load_tokenizer, counter)
    )
    try:
        waiting = {pool.submit(_do_unit_in_worker, number, units[number]) for number in missing}
        while waiting:
            finished, waiting = concurrent.futures.wait(waiting, timeout=0.2, return_when="FIRST_EXCEPTION")
            for future in finished:
                future.result()
            report(counter.value, total)
    except concurrent.futures.process.BrokenProcessPool:
        raise RuntimeError(
            "a preparing process died (out of memory?): use fewer workers; what is done stays done"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_worker: dict[str, Any] = {}


def _start_worker(run: _Run, load_tokenizer: TokenizerLoader, counter: Any) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    # A pool's workers outlive a killed parent, and would write beside the next preparation for ever.
    threading.Thread(target=end_with_parent, daemon=True).start()
    tokenizer = load_tokenizer(run.folder / TOKENIZER)
    found, wanted = tokenizer.vocabulary.fingerprint, run.vocabulary.fingerprint
    assert found == wanted, f"the tokenizer saved in {run.folder} loads as another ({found} for {wanted})"
    _worker.update(run=run, tokenizer=tokenizer, counter=counter)


def _do_unit_in_worker(number: int, unit: Sequence[Piece]) -> None:
    counter = _worker["counter"]

    def advance(count: int) -> None:
        with counter.get_lock():
            counter.value += count

    _do_unit(_worker["run"], _worker["tokenizer"], number, unit, advance)


def _do_unit(
    run: _Run, tokenizer: Tokenizer, number: int, unit: Sequence[Piece], advance: Callable[[int], None]
) -> None:
    """Writes the shards of one unit, then the entry that says they are there."""
    writers = {
        split: ShardWriter(
            run.folder,
            f"{split}-{number:05d}",
            split=split,
            vocabulary_size=run.vocabulary.size,
            weighted=run.config.weighted,
        )
        for split in SPLITS
    }
    undecodable: dict[str, int] = {}
    empty_documents = 0
    try:
        for batch in _batches_of_documents(run.config, unit, undecodable, advance):
            empty_documents += _write_batch(run, tokenizer, batch, writers)
        shards = [shard for split in SPLITS if (shard := writers[split].finish()) is not None]
    except BaseException:
        for writer in writers.values():
            writer.discard()
        raise
    entry = {
        "shards": [dataclasses.asdict(shard) for shard in shards],
        "empty_documents": empty_documents,
        "undecodable": undecodable,
    }
    write_json(_entry_path(run.folder, number), entry)


def _batches_of_documents(
    config: DataConfig, unit: Sequence[Piece], undecodable: dict[str, int], advance: Callable[[int], None]
) -> Iterator[list[tuple[str, Document]]]:
    """(split, document) pairs in batches of about a megabyte, enough for a tokenizer to use its threads."""
    batch: list[tuple[str, Document]] = []
    characters = 0
    for piece in unit:
        left = piece.end - piece.begin

        def advance_within_piece(count: int) -> None:
            nonlocal left
            # A reader looks past the end of its piece to finish the last line.
            advance(min(count, left))
            left -= min(count, left)

        for document in read_documents(config, piece, advance=advance_within_piece):
            if document.undecodable_bytes:
                undecodable[document.name] = undecodable.get(document.name, 0) + document.undecodable_bytes
            shares = split_document(config, document)
            batch.extend(shares.items())
            characters += len(document.text)
            if characters >= BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
        advance(left)
    if batch:
        yield batch


def _write_batch(
    run: _Run, tokenizer: Tokenizer, batch: Sequence[tuple[str, Document]], writers: dict[str, ShardWriter]
) -> int:
    """Encodes and writes documents; the number of them that had no text."""
    config, vocabulary = run.config, run.vocabulary
    before = [vocabulary.require("bos", needed_by="data.add_bos=True")] if config.add_bos else []
    after = [vocabulary.require("eos", needed_by="data.add_eos=True")] if config.add_eos else []
    encoded = iter(tokenizer.encode_batch([text for _, document in batch for text, _ in document.parts]))
    empty_documents = 0
    for split, document in batch:
        parts = [np.asarray(next(encoded), np.int64) for _ in document.parts]
        if not any(part.size for part in parts):
            empty_documents += 1
            continue
        weights = None
        if config.weighted:
            first, last = document.parts[0][1], document.parts[-1][1]
            lengths = [len(before), *(part.size for part in parts), len(after)]
            weights = np.repeat([first, *(weight for _, weight in document.parts), last], lengths)
        ids = np.concatenate([np.asarray(before, np.int64), *parts, np.asarray(after, np.int64)])
        writers[split].add(ids, text_bytes=len(document.text.encode()), weights=weights)
    return empty_documents


def _collect(run: _Run, plan: dict[str, Any], num_units: int) -> Manifest:
    """Puts the entries together: all train shards, then all valid shards, in the order of the input."""
    entries = [json.loads(_entry_path(run.folder, n).read_text(encoding="utf-8")) for n in range(num_units)]
    shards: list[Shard] = [shard_from_json(shard) for entry in entries for shard in entry["shards"]]
    undecodable: dict[str, int] = {}
    for entry in entries:
        for name, count in entry["undecodable"].items():
            undecodable[name] = undecodable.get(name, 0) + count
    return Manifest(
        dtype=token_dtype(run.vocabulary.size).name,
        weighted=run.config.weighted,
        vocabulary_size=run.vocabulary.size,
        pad_id=run.vocabulary.pad_id or 0,
        shards=tuple(sorted(shards, key=lambda shard: SPLITS.index(shard.split))),
        empty_documents=sum(entry["empty_documents"] for entry in entries),
        undecodable=undecodable,
        **plan,
    )


def _refuse_empty(config: DataConfig, manifest: Manifest) -> None:
    documents = {split: manifest.total(split, "documents") for split in SPLITS}
    if not any(documents.values()):
        raise ValueError(f"data.path={config.path!r}: the corpus is empty: no document has any text")
    wanted = SPLITS if config.valid_fraction else ("train",)
    for split in wanted:
        if not documents[split]:
            raise ValueError(
                f"data.path={config.path!r}: its {sum(documents.values())} documents leave none for {split} at "
                f"data.valid_fraction={config.valid_fraction}: set data.split=tail, or change the fraction"
            )
