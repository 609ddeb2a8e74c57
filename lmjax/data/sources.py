"""Which files a data path means, and how they are divided into units of work.

The order is that of sorted relative names and the division depends on sizes alone, so the shards do
not depend on the file system, on where the folder lies or on the number of workers.
"""

import dataclasses
import glob
import hashlib
import json
import os
import pathlib
import sysconfig
from collections.abc import Sequence

from lmjax.data.config import STDLIB, DataConfig

COMPRESSED = (".gz", ".zst")
JSON_LINES = (".jsonl", ".ndjson")

# Tests hold files broken on purpose; character tables and help topics are not code; the last are not
# the same on two machines with the same Python.
STDLIB_SKIPPED_FOLDERS = {
    "site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__",
    "encodings", "pydoc_data",
}  # fmt: skip
STDLIB_SKIPPED_PREFIXES = ("_sysconfigdata", "sitecustomize", "usercustomize")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file of the corpus: its name relative to the corpus, where it is, and its state when listed."""

    name: str
    path: str
    size: int
    modified_ns: int

    @property
    def compression(self) -> str:
        """``".gz"``, ``".zst"`` or ``""``."""
        suffix = pathlib.PurePath(self.name).suffix.lower()
        return suffix if suffix in COMPRESSED else ""

    @property
    def is_json_lines(self) -> bool:
        """Whether each line of the file is one JSON object."""
        stem = self.name[: len(self.name) - len(self.compression)]
        return pathlib.PurePath(stem).suffix.lower() in JSON_LINES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """The records of a file that begin in the byte range ``[begin, end)`` of it."""

    file: SourceFile
    begin: int
    end: int


def find_files(config: DataConfig) -> list[SourceFile]:
    """The files ``config.path`` means, sorted by name.

    Raises:
      ValueError: nothing is there, or a compressed file needs a package that is not installed.
    """
    root, paths = _candidates(config)
    names = {os.path.relpath(path, root): path for path in paths if os.path.isfile(path)}
    files = []
    for name, path in sorted(names.items()):
        status = os.stat(path)
        files.append(SourceFile(name=name, path=str(path), size=status.st_size, modified_ns=status.st_mtime_ns))
    if not files:
        raise ValueError(
            f"data.path={config.path!r}: no file there"
            + (f" matches data.document_glob={config.document_glob!r}" if os.path.isdir(config.path) else "")
            + ': name a file, a folder or a glob, or "stdlib"'
        )
    if not any(file.size for file in files):
        raise ValueError(f"data.path={config.path!r}: the corpus is empty: all {len(files)} files have no content")
    return files


def _candidates(config: DataConfig) -> tuple[str, list[str]]:
    if config.path == STDLIB:
        root = pathlib.Path(sysconfig.get_path("stdlib"))
        return str(root), [str(path) for path in root.rglob("*.py") if _is_stdlib_source(path.relative_to(root))]
    path = os.path.expanduser(config.path)
    if os.path.isdir(path):
        found = pathlib.Path(path).glob(config.document_glob)
        return path, [str(p) for p in found if not any(n.startswith(".") for n in p.relative_to(path).parts)]
    if os.path.isfile(path):
        return os.path.dirname(path) or ".", [path]
    matches = glob.glob(path, recursive=True)
    root_of_all = os.path.commonpath([os.path.dirname(os.path.abspath(m)) for m in matches]) if matches else "."
    return root_of_all, matches


def _is_stdlib_source(name: pathlib.PurePath) -> bool:
    return not STDLIB_SKIPPED_FOLDERS & set(name.parts[:-1]) and not name.name.startswith(STDLIB_SKIPPED_PREFIXES)


def plan_units(files: Sequence[SourceFile], shard_bytes: int) -> list[list[Piece]]:
    """Divides files into units of about ``shard_bytes`` bytes: small files together, large JSON lines cut.

    Compressed files and text cannot be cut, so such a file is in one unit whatever its size.
    """
    units: list[list[Piece]] = []
    room = 0
    for file in files:
        divisible = file.is_json_lines and not file.compression
        step = shard_bytes if divisible else max(file.size, 1)
        for begin in range(0, file.size, step):
            piece = Piece(file=file, begin=begin, end=min(begin + step, file.size))
            if room <= 0:
                units.append([])
                room = shard_bytes
            units[-1].append(piece)
            room -= piece.end - piece.begin
    return units


def fingerprint(files: Sequence[SourceFile]) -> str:
    """Hex digest of the files' names, sizes and modification times: changes when the corpus does."""
    listing = [[file.name, file.size, file.modified_ns] for file in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
