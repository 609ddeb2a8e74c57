"""SHA-256 sums of a folder's files, in the format that ``sha256sum -c SHA256SUMS`` reads."""

import hashlib
import os
import pathlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

SUMS = "SHA256SUMS"


def write_sums(folder: pathlib.Path) -> None:
    """Writes the sums of all files below ``folder``; either whole or not at all.

    Raises:
      OSError: a file cannot be read, or the sums not be written.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(SUMS))
    unfinished = folder / f"{SUMS}.unfinished"
    with unfinished.open("w") as file:
        file.writelines(f"{_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / SUMS)


def read_sums(folder: pathlib.Path) -> dict[str, str] | None:
    """Hex digest by file name relative to ``folder``; ``None`` when sums were never written."""
    try:
        lines = (folder / SUMS).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def first_mismatch(folder: pathlib.Path, sums: Mapping[str, str]) -> str | None:
    """The first file of ``sums`` that is missing, unreadable or other than its digest says, if any."""

    def matches(name: str) -> bool:
        try:
            return _digest(folder / name) == sums[name]
        except (OSError, ValueError):  # ValueError: a damaged list may name no possible path.
            return False

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        verdicts = zip(sums, pool.map(matches, sums), strict=True)
        return next((name for name, good in verdicts if not good), None)


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
