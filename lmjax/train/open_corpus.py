"""Opens and checks the data of a recipe. If they are missing, it first trains the tokenizer and writes the shards."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping

from lmjax.data.config import DataConfig
from lmjax.data.manifest import MANIFEST, Manifest
from lmjax.data.prepare.prepare import PREPARING, TOKENIZER, prepare, refuse_foreign
from lmjax.data.prepare.sources import find_files, fingerprint
from lmjax.data.stored import local_folder, place_of
from lmjax.naming import naming, naming_file
from lmjax.parallel.distributed import is_primary, wait_for_all
from lmjax.parallel.folder_lock import folder_lock
from lmjax.parallel.joint_work import Progress, Where
from lmjax.remote.address import stored_address
from lmjax.tokenizers import Tokenizer, TokenizerConfig, load_tokenizer
from lmjax.tokenizers.folder import METADATA
from lmjax.train.corpus import Corpus, with_folders
from lmjax.train.corpus_tokenizer import check_same_tokenizer, load_or_train_tokenizer

CACHE = pathlib.Path("data")
LONGEST_STEM = 48

HERE = Where()


def open_corpus(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    *,
    progress: Progress | None = None,
    current: bool = False,
    where: Where = HERE,
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
      where: the processes that prepare, see :func:`lmjax.data.prepare.prepare.prepare`.

    Raises:
      ValueError: the input is missing or bad, or the shards were made with another tokenizer or in another way.
    """
    if not is_primary():
        wait_for_all("corpus prepared")
    corpus = _open(data, tokenizer, progress, current, where)
    if is_primary():
        wait_for_all("corpus prepared")
    return corpus


def _open(
    data: DataConfig, tokenizer: TokenizerConfig, progress: Progress | None, current: bool, where: Where
) -> Corpus:
    if data.mixture:
        return _open_mixture(data, tokenizer)
    if data.sources:
        return _open_sources(data, tokenizer, progress, current, where)
    folder = corpus_folder(data, tokenizer)
    stored = stored_address(data.prepared) is not None
    if data.prepared is not None and (stored or (not current and (folder / MANIFEST).exists())):
        manifest = Manifest.load(folder)
        _check_same_preparation(data, manifest, folder)
        saved = load_tokenizer(folder / TOKENIZER)
        check_same_tokenizer(tokenizer, saved, folder)
        return Corpus(data, folder, manifest, saved)
    refuse_foreign(folder)
    # A finished folder may be one that we cannot write to. Only the tokenizer is made by one process alone.
    finished = (folder / MANIFEST).exists()
    with naming_file(folder):
        with contextlib.nullcontext() if finished else folder_lock(folder, PREPARING, wait=True):
            made = load_or_train_tokenizer(data, tokenizer, folder / TOKENIZER)
        return Corpus(
            data,
            folder,
            prepare(data, made, folder, progress=progress, num_workers=where.workers, engine=where.engine),
            made,
        )


def _open_mixture(data: DataConfig, tokenizer: TokenizerConfig) -> Corpus:
    """Opens prepared folders; nothing is prepared."""
    folders = {name: local_folder(part.prepared or "") for name, part in data.parts.items()}
    manifests = {name: Manifest.load(folder) for name, folder in folders.items()}
    first = local_folder(data.mixture[0])
    saved = load_tokenizer(first / TOKENIZER)
    check_same_tokenizer(tokenizer, saved, first)
    sources = {name: Corpus(part, folders[name], manifests[name], saved) for name, part in data.parts.items()}
    return Corpus(data, first, next(iter(manifests.values())), saved, sources)


def _open_sources(
    data: DataConfig, tokenizer: TokenizerConfig, progress: Progress | None, current: bool, where: Where
) -> Corpus:
    """Opens several sources, and first prepares those that are not there yet, all with one tokenizer."""
    parent = corpus_folder(data, tokenizer)
    _refuse_other_content(data, parent)
    parts = {
        name: part.single(prepared=str(local_folder(part.prepared or parent / name)))
        for name, part in data.parts.items()
    }
    finished = all((pathlib.Path(part.prepared or "") / MANIFEST).exists() for part in parts.values())
    with naming_file(parent):
        with contextlib.nullcontext() if finished else folder_lock(parent, PREPARING, wait=True):
            made = _tokenizer_of_sources(data, parts, tokenizer, parent)
        sources = {}
        for name, part in parts.items():
            folder = pathlib.Path(part.prepared or "")
            with naming(f"data.sources: {name}"):
                if current and data.sources[name].path is not None and stored_address(data.sources[name].prepared):
                    raise ValueError(
                        f"prepared={data.sources[name].prepared} is an address: prepare the source by itself, with "
                        f"that data.prepared, or into a folder"
                    )
                if (folder / MANIFEST).exists() and (not current or data.sources[name].path is None):
                    manifest = Manifest.load(folder)
                    if data.sources[name].path is not None:
                        _check_same_preparation(part, manifest, folder)
                elif data.sources[name].path is None:
                    raise ValueError(f"{folder} holds no prepared data: prepare it, or name the text in path")
                else:
                    manifest = prepare(
                        part, made, folder, progress=progress, num_workers=where.workers, engine=where.engine
                    )
            sources[name] = Corpus(part, folder, manifest, made)
    manifest = sources[data.source_names[0]].manifest
    return Corpus(with_folders(data, sources), parent, manifest, made, sources)


def _refuse_other_content(data: DataConfig, parent: pathlib.Path) -> None:
    """Refuses a folder for several sources that holds anything else.

    Raises:
      ValueError: it does.
    """
    if (parent / MANIFEST).exists():
        raise ValueError(f"{parent} holds a single prepared source: give data.sources another folder (data.prepared)")
    # Sources may have been taken out of the recipe, and their folders stay.
    if parent.is_dir() and not (parent / TOKENIZER / METADATA).exists():
        others = [path.name for path in parent.iterdir() if path.name not in data.source_names]
        if any(name != TOKENIZER and not name.startswith(".") for name in others):
            raise ValueError(f"{parent} is not empty and holds no preparation: choose another folder (data.prepared)")


def _tokenizer_of_sources(
    data: DataConfig, parts: Mapping[str, DataConfig], tokenizer: TokenizerConfig, parent: pathlib.Path
) -> Tokenizer:
    """Returns the tokenizer of all sources: that of the common folder, that of a source that is there, or a new one."""
    if not (parent / TOKENIZER / METADATA).exists():
        for part in parts.values():
            folder = pathlib.Path(part.prepared or "")
            if (folder / MANIFEST).exists():
                saved = load_tokenizer(folder / TOKENIZER)
                check_same_tokenizer(tokenizer, saved, folder)
                return saved
    return load_or_train_tokenizer(data, tokenizer, parent / TOKENIZER)


def _check_same_preparation(data: DataConfig, manifest: Manifest, folder: pathlib.Path) -> None:
    """Refuses a recipe whose description of the text differs from the one the shards were made with."""
    found = {"path": manifest.source.get("path"), **manifest.settings}
    wanted = {"path": data.path, **data.preparation()}
    for name in {**wanted, **found}:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{place_of(folder)} was prepared with data.{name}={found.get(name)!r}, here it is "
                f"{wanted.get(name)!r}: set it to that, or prepare into another folder (data.prepared)"
            )


def corpus_folder(data: DataConfig, tokenizer: TokenizerConfig) -> pathlib.Path:
    """Returns the folder of a recipe's data: the one it names, or :func:`automatic_folder`."""
    given = data.mixture[0] if data.mixture else data.prepared
    return local_folder(given) if given is not None else automatic_folder(data, tokenizer)


def automatic_folder(data: DataConfig, tokenizer: TokenizerConfig) -> pathlib.Path:
    """Returns the folder of the shards if the recipe names none; its name depends on the input and on how it is cut."""
    if data.sources:
        read = {name: part for name, part in data.parts.items() if data.sources[name].path is not None}
        folders = {name: str(automatic_folder(part, tokenizer)) for name, part in read.items()}
        digest = hashlib.sha256(json.dumps(folders, sort_keys=True).encode()).hexdigest()[:12]
        return CACHE / f"{'-'.join(data.source_names)[:LONGEST_STEM]}-{digest}"
    files = find_files(data)
    facts = [data.path, data.preparation(), dataclasses.asdict(tokenizer), fingerprint(files)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    stem = pathlib.PurePath(data.path).stem.replace("*", "")[:LONGEST_STEM] or "corpus"
    return CACHE / f"{stem}-{digest}"
