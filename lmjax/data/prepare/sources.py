"""The files of a data path, and their division into units of work.

The order is that of sorted relative names and the division depends on sizes alone, so the shards do
not depend on the file system, on where the folder lies or on the number of workers.
"""

import dataclasses
import functools
import glob
import hashlib
import json
import os
import pathlib
import random
import re
import sysconfig
from collections.abc import Sequence

from lmjax.data.config import STDLIB, DataConfig
from lmjax.data.prepare.fields import read_fields
from lmjax.data.prepare.formats import TABLES, Format, recognise
from lmjax.data.prepare.storage import find_addresses, is_address, state_of

# Tests contain files that are broken on purpose, and character tables and help topics are not code. The last ones
# differ between machines with the same Python.
STDLIB_SKIPPED_FOLDERS = {
    "site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__",
    "encodings", "pydoc_data",
}  # fmt: skip
SAVED_FOLDER = ("dataset_info.json", "dataset_dict.json", "state.json")
"""Files by which a folder of ``Dataset.save_to_disk`` is recognised; they hold no documents."""
SAVED_BESIDE = ("README.md", ".gitattributes")
_PIECES = 1 << 8
"""Pieces of which a sample of a large corpus is made."""
STDLIB_SKIPPED_PREFIXES = ("_sysconfigdata", "sitecustomize", "usercustomize")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file of the corpus: its name relative to the corpus, its path, its state when it was listed, and its format."""

    name: str
    path: str
    size: int
    modified_ns: int
    format: Format = Format()
    cuttable: bool = False
    """Whether it may be cut if it is text: at separators, or at line ends (``data.cut_files``)."""

    @property
    def is_divisible(self) -> bool:
        """Whether reading can begin anywhere: in lines or separated texts that are UTF-8 and not compressed, or tables
        of which any part can be found.
        """
        format = self.format
        if format.compression or format.encoding != "utf-8":
            return False
        if format.layout == "text":
            return self.cuttable
        return format.layout in ("lines", "parquet", "array_record")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """The records of a file that begin in the byte range ``[begin, end)`` of it."""

    file: SourceFile
    begin: int
    end: int


def find_files(config: DataConfig) -> list[SourceFile]:
    """Returns the files that ``config.path`` names, sorted by name.

    Raises:
      ValueError: there is no file, or a compressed file needs a package that is not installed.
    """
    if is_address(config.path):
        root, listed = find_addresses(config.path, config.document_glob)
        names = {one.path.removeprefix(root).lstrip("/"): one for one in listed}
    else:
        root, paths = _candidates(config)
        names = {os.path.relpath(path, root): state_of(path) for path in paths if os.path.isfile(path)}
    if not names:
        raise ValueError(
            f"data.path={config.path!r}: no file there"
            + (f" matches data.document_glob={config.document_glob!r}" if os.path.isdir(config.path) else "")
            + ': name a file, a folder or a glob, or "stdlib"'
        )
    is_saved = any(os.path.basename(name) in SAVED_FOLDER for name in names)
    fields = read_fields(config)
    files, problems = [], []
    for name, (path, size, modified) in sorted(names.items()):
        if is_saved and os.path.basename(name) in (*SAVED_FOLDER, *SAVED_BESIDE):
            continue
        try:
            format = recognise(path, size, modified, fields=fields)
        except ValueError as error:
            problems.append(str(error))
            continue
        cuttable = config.separator is not None or config.cut_files
        files.append(
            SourceFile(name=name, path=path, size=size, modified_ns=modified, format=format, cuttable=cuttable)
        )
    if problems:
        where = " (data.document_glob)" if os.path.isdir(config.path) else " (data.path)"
        others = f"; {len(problems) - 1} more files are not read either" if len(problems) > 1 else ""
        raise ValueError(f"{problems[0]}{where if problems[0].endswith('leave it out') else ''}{others}")
    if not any(file.size for file in files):
        raise ValueError(f"data.path={config.path!r}: the corpus is empty: all {len(files)} files have no content")
    _refuse_unused_settings(config, files)
    return files


def _refuse_unused_settings(config: DataConfig, files: Sequence[SourceFile]) -> None:
    """Refuses settings that no file uses, which would otherwise have no effect without notice."""
    texts = [file for file in files if file.format.layout == "text" and file.size]
    if config.members and texts:
        raise ValueError(
            f"{texts[0].path} is not JSON lines, and data.members={config.members} names fields of them: give .jsonl "
            f"files, or leave data.members empty"
        )
    if len(texts) == sum(file.size > 0 for file in files):
        default = DataConfig.text_field
        for name, unset in (
            ("prompt_field", None),
            ("weight_field", None),
            ("template", None),
            ("messages_field", None),
            ("id_field", None),
            ("text_field", default),
        ):
            if (value := getattr(config, name)) != unset:
                raise ValueError(
                    f"data.{name}={value!r} names a field of JSON records, and {texts[0].path} is text: give JSON "
                    f"lines (.jsonl) or a table, or set it to {unset}"
                )
    if not texts and config.cut_files:
        raise ValueError(f"data.cut_files is for text, and {files[0].path} holds {files[0].format}: leave it out")
    if not texts and config.document_separator is not None:
        records = "rows" if files[0].format.layout in TABLES else "JSON records"
        raise ValueError(
            f"data.document_separator={config.document_separator!r} divides text files, and {files[0].path} holds "
            f"{records}, each a document: leave it out"
        )


def _candidates(config: DataConfig) -> tuple[str, list[str]]:
    if config.path == STDLIB:
        root = pathlib.Path(sysconfig.get_path("stdlib"))
        return str(root), [str(path) for path in root.rglob("*.py") if _is_stdlib_source(path.relative_to(root))]
    path = os.path.expanduser(config.path)
    if os.path.isdir(path):
        try:
            found = glob.glob(config.document_glob, root_dir=path, recursive=True)
        except (ValueError, re.error) as error:
            raise ValueError(f"data.document_glob={config.document_glob!r}: {error}") from None
        return path, [os.path.join(path, name) for name in found if not _goes_round(path, name)]
    if os.path.isfile(path):
        return os.path.dirname(path) or ".", [path]
    matches = glob.glob(path, recursive=True)
    root_of_all = os.path.commonpath([os.path.dirname(os.path.abspath(m)) for m in matches]) if matches else "."
    return root_of_all, [
        match for match in matches if not _goes_round(root_of_all, os.path.relpath(match, root_of_all))
    ]


def _goes_round(root: str, name: str) -> bool:
    """Returns whether the path of a file contains a folder twice, because of a link to a folder above it."""
    parents = pathlib.PurePath(name).parts[:-1]
    real = [_real_path(root, parents[:depth]) for depth in range(len(parents) + 1)]
    return len(set(real)) < len(real)


@functools.lru_cache(maxsize=1 << 14)
def _real_path(root: str, parts: tuple[str, ...]) -> str:
    return os.path.realpath(os.path.join(root, *parts))


def _is_stdlib_source(name: pathlib.PurePath) -> bool:
    return not STDLIB_SKIPPED_FOLDERS & set(name.parts[:-1]) and not name.name.startswith(STDLIB_SKIPPED_PREFIXES)


def plan_units(files: Sequence[SourceFile], shard_bytes: int) -> list[list[Piece]]:
    """Divides files into units of about ``shard_bytes`` bytes: small files together, large ones cut.

    A compressed file, or a text file that is one document, cannot be cut, so it is in one unit, whatever its size.
    """
    units: list[list[Piece]] = []
    room = 0
    for file in files:
        step = shard_bytes if file.is_divisible else max(file.size, 1)
        for begin in range(0, file.size, step):
            piece = Piece(file=file, begin=begin, end=min(begin + step, file.size))
            if room <= 0:
                units.append([])
                room = shard_bytes
            units[-1].append(piece)
            room -= piece.end - piece.begin
    return units


def fingerprint(files: Sequence[SourceFile]) -> str:
    """Returns a hex digest of the files' names, sizes and modification times, which changes with the corpus."""
    listing = [[file.name, file.size, file.modified_ns] for file in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def some_pieces(files: Sequence[SourceFile], most_bytes: int, *, seed: int) -> list[Piece]:
    """Returns pieces of files, in their order, that hold about ``most_bytes`` bytes and are spread over all of them.

    Args:
      files: the files; if they hold no more than that, each is a piece.
      most_bytes: bytes of the files to read.
      seed: decides which pieces.
    """
    if sum(file.size for file in files) <= most_bytes:
        return [Piece(file=file, begin=0, end=file.size) for file in files if file.size]
    step = max(most_bytes // _PIECES, 1)
    pieces = [piece for unit in plan_units(files, step) for piece in unit]
    chosen, num_bytes = [], 0
    for number in random.Random(seed).sample(range(len(pieces)), len(pieces)):
        chosen.append(number)
        num_bytes += pieces[number].end - pieces[number].begin
        if num_bytes >= most_bytes:
            break
    return [pieces[number] for number in sorted(chosen)]
