"""Preparation of token shards from text, in parallel and resumable. The output is identical however the work is
divided, also among several preparations of one folder that run at the same time.

A unit of input (see :func:`lmjax.data.prepare.sources.plan_units`) becomes one train and one valid shard and then an
entry in ``entries/``. A unit is done when its entry exists. A preparation that is killed and run again does the units
that have no entry, and the manifest is written last.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from lmjax.atomic_files import is_partial, write_json
from lmjax.data.config import DataConfig
from lmjax.data.manifest import MANIFEST, SPLITS, Manifest, read_json, token_dtype
from lmjax.data.mixing import TOKENIZER
from lmjax.data.prepare.encode import ENTRIES, Entry, Job, Tokenizer, read_entry
from lmjax.data.prepare.sources import SourceFile, find_files, fingerprint, plan_units
from lmjax.data.prepare.workers import TokenizerLoader, do_units
from lmjax.data.tally import Tally
from lmjax.parallel.folder_lock import LOCK_FILE, FolderInUseError, folder_lock
from lmjax.parallel.joint_work import MEMBERS, Progress, has_members, membership
from lmjax.parallel.signals import kept
from lmjax.tokenizers.vocabulary import Vocabulary

PLAN = "plan.json"
PREPARING = "is being prepared"


def load_saved_tokenizer(folder: pathlib.Path) -> Tokenizer:
    """Loads the tokenizer that is saved in a folder."""
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
    engine: str | None = None,
) -> Manifest:
    """Tokenizes the corpus into shards in ``folder``; returns at once if that is already done.

    Several processes, also of several machines that share the folder, may prepare the same at the same time: they
    divide the units among themselves, and each returns when all are done.

    Args:
      config: says what to read and how to split it.
      tokenizer: makes the ids; a copy is saved in ``folder/tokenizer``.
      folder: the folder for the shards; it is made if it does not exist.
      num_workers: processes; by default one for each core, and never more than there are units. The result does not
        depend on their number. Workers are spawned: a script that calls this with more than one needs the usual ``if
        __name__ == "__main__":``.
      progress: called with the bytes of input that are done, and the bytes in all.
      load_tokenizer: how a worker loads the saved copy (a function of a module).
      engine: the address of a Dask scheduler (tcp://HOST:PORT), whose workers do the units in place of processes of
        this machine; they need the same paths.

    Returns:
      The manifest, as it lies in the folder.

    Raises:
      ValueError: bad input (named), an empty corpus or split, or a folder that holds another preparation
        or is being prepared from other text or with other settings.
    """
    folder = pathlib.Path(folder)
    vocabulary = tokenizer.vocabulary
    _require_special_tokens(config, vocabulary)
    files = find_files(config)
    plan = _plan(config, vocabulary, files)
    refuse_foreign(folder)
    # Checked before the lock is taken, for a finished folder may be read-only.
    if (manifest := _finished(folder, plan)) is not None:
        return manifest
    resumable = kept(f"what is prepared in {folder} stays: the same command goes on from there")
    units = plan_units(files, config.shard_bytes)
    names = tuple(getattr(tokenizer, "special_tokens", ()))
    job = Job(config=config, vocabulary=vocabulary, folder=folder, special_names=names)
    with resumable, contextlib.ExitStack() as member:
        with folder_lock(folder, PREPARING, wait=True):
            if (manifest := _finished(folder, plan)) is not None:
                return manifest
            # How files are cut into units may differ between versions, and then entries do not go together.
            _begin(folder, {**plan, "units": len(units)}, tokenizer)
            member.enter_context(membership(folder / ENTRIES, PREPARING))
        do_units(
            job, units, tokenizer, num_workers=num_workers, progress=progress, load_tokenizer=load_tokenizer,
            engine=engine,
        )  # fmt: skip
        with folder_lock(folder, PREPARING, wait=True):
            # Another process that did units may have been first to come here.
            return _finished(folder, plan) or _finish(job, plan, files, len(units))


def _finish(job: Job, plan: dict[str, Any], files: Sequence[SourceFile], num_units: int) -> Manifest:
    """Writes the manifest and removes what it makes superfluous."""
    manifest = _collect(job, plan, num_units)
    formats = collections.Counter(str(file.format) for file in files if file.size)
    manifest = dataclasses.replace(manifest, formats=dict(formats))
    _refuse_empty(job.config, manifest)
    manifest.save(job.folder)
    # Other processes that did units may still be leaving the folder of their locks.
    shutil.rmtree(job.folder / ENTRIES, ignore_errors=True)
    (job.folder / PLAN).unlink()
    return manifest


def prepared_key(config: DataConfig, vocabulary: Vocabulary) -> str:
    """Returns a name for the result of :func:`prepare`, for use in a folder's name; other content has another name."""
    plan = json.dumps(_plan(config, vocabulary, find_files(config)), sort_keys=True)
    return hashlib.sha256(plan.encode()).hexdigest()[:16]


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
    for role in ("user", "assistant") if config.messages_field and config.chat_template == "roles" else ():
        vocabulary.require(f"<|{role}|>", needed_by=f"data.messages_field={config.messages_field!r}")
    for name in config.fim_markers if config.fim_rate else ():
        vocabulary.require(name, needed_by=f"data.fim_rate={config.fim_rate}")


def _finished(folder: pathlib.Path, plan: dict[str, Any]) -> Manifest | None:
    """Returns the manifest in the folder if it belongs to this preparation, and refuses one of another preparation."""
    if not (folder / MANIFEST).exists():
        return None
    manifest = Manifest.load(folder)
    for section, wanted in plan.items():
        found = getattr(manifest, section)
        what = "tokenizer"
        if isinstance(wanted, dict):
            # A setting that is missing was not used, because the version that wrote the manifest may not have had it.
            key = next((key for key in {**wanted, **found} if found.get(key) != wanted.get(key)), None)
            if key is None:
                continue
            name = f"data.{key}" if section == "settings" else f"source {key}"
            what = f"{name} ({found.get(key)!r}, now {wanted.get(key)!r})"
        elif found == wanted:
            continue
        raise ValueError(
            f"{folder} holds data prepared with another {what}: choose another folder (data.prepared), or delete it"
        )
    return manifest


def refuse_foreign(folder: pathlib.Path) -> None:
    """Refuses a folder that holds anything but a preparation, before anything is written to it.

    Raises:
      ValueError: it does.
    """
    if not folder.is_dir() or any((folder / name).exists() for name in (MANIFEST, PLAN)):
        return
    # Files that a preparation may leave if it is killed before it has a plan.
    ours = (LOCK_FILE, ".lock", TOKENIZER, ENTRIES)
    if any(name not in ours and not is_partial(name) for name in os.listdir(folder)):
        raise ValueError(f"{folder} is not empty and holds no preparation: choose another folder (data.prepared)")


def _begin(folder: pathlib.Path, plan: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Prepares the folder, which is new, or holds a preparation that was stopped or that other processes work on.

    Raises:
      FolderInUseError: other processes work on it, with another plan.
    """
    plan_path = folder / PLAN
    same = plan_path.exists() and _is_same(plan_path, plan)
    if has_members(folder / ENTRIES):
        if same:
            return
        raise FolderInUseError(
            f"{folder} is being prepared by other processes, from other text or with other settings: wait until they "
            f"are done, end them, or choose another folder (data.prepared)"
        )
    if plan_path.exists() and not same:
        # The data or the settings were changed after it was stopped, so nothing of it can be kept.
        _remove(folder, f"{ENTRIES}/*.json", "*-[0-9]*.bin", "*-[0-9]*.idx", "*-[0-9]*.wts", "*-[0-9]*.ids")
        shutil.rmtree(folder / TOKENIZER, ignore_errors=True)
    _remove(folder, ".*.partial", f"{ENTRIES}/.*.partial")
    shutil.rmtree(folder / ENTRIES / MEMBERS, ignore_errors=True)
    tokenizer.save(folder / TOKENIZER)
    (folder / ENTRIES).mkdir(exist_ok=True)
    write_json(plan_path, plan)


def _is_same(path: pathlib.Path, content: object) -> bool:
    try:
        return read_json(path) == content
    except ValueError:
        return False


def _remove(folder: pathlib.Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def _collect(job: Job, plan: dict[str, Any], num_units: int) -> Manifest:
    """Joins the entries into a manifest: all train shards, then all valid shards, in the order of the input."""
    entries = [read_entry(job.folder, n) for n in range(num_units)]
    whole: list[Entry] = [entry for entry in entries if entry is not None]
    assert len(whole) == num_units, "a unit that was done has no entry"
    tally = Tally()
    for entry in whole:
        tally.add(entry.tally)
    tally.check(job.config)
    shards = [shard for entry in whole for shard in entry.shards]
    return Manifest(
        dtype=token_dtype(job.vocabulary.size).name,
        weighted=job.config.weighted,
        vocabulary_size=job.vocabulary.size,
        pad_id=job.vocabulary.pad_id or 0,
        shards=tuple(sorted(shards, key=lambda shard: SPLITS.index(shard.split))),
        empty_documents=sum(entry.empty_documents for entry in whole),
        undecodable=tally.undecodable,
        bad_records=tally.bad_records,
        bad_places=tuple(tally.bad_places),
        text_files=tally.text_files,
        separated_files=tally.separated_files,
        **plan,
    )


def _refuse_empty(config: DataConfig, manifest: Manifest) -> None:
    documents = {split: manifest.total(split, "documents") for split in SPLITS}
    if not any(documents.values()):
        skipped = f" ({'; '.join(manifest.notes)})" if manifest.bad_records else ""
        raise ValueError(f"data.path={config.path!r}: the corpus is empty: no document has any text{skipped}")
    wanted = SPLITS if config.valid_fraction else ("train",)
    for split in wanted:
        if not documents[split]:
            raise ValueError(
                f"data.path={config.path!r}: of {sum(documents.values())} documents none is for {split} at "
                f"data.valid_fraction={config.valid_fraction}: set data.split=tail, or change the fraction"
            )
