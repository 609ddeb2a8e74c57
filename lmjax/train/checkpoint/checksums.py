"""SHA-256 sums of a folder's files, in the format that ``sha256sum -c SHA256SUMS`` reads."""

import hashlib
import os
import pathlib
import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from lmjax.atomic_files import write_file

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_sums(folder: pathlib.Path) -> None:
    """Writes the checksums of all files below ``folder``, either all of them or none.

    Raises:
      OSError: a file cannot be read, or the checksums cannot be written.
    """
    files = _files(folder)
    write_file(folder / SUMS, "".join(f"{_digest(folder / name)}  {name}\n" for name in files))


def read_sums(folder: pathlib.Path) -> dict[str, str] | None:
    """Returns the hex digest of each file, by its name relative to ``folder``; ``None`` if none were written.

    Raises:
      ValueError: the list is not one that :func:`write_sums` writes; the message says what is wrong with it.
    """
    try:
        content = (folder / SUMS).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{SUMS} cannot be read ({error.strerror})") from error
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{SUMS} is not UTF-8") from None
    if not text.endswith("\n"):
        raise ValueError(f"{SUMS} is cut short" if text else f"{SUMS} is empty")
    sums: dict[str, str] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} of {SUMS} is no checksum and file name")
        digest, name = match.groups()
        if name in sums or "\\" in name or any(word in ("", ".", "..") for word in name.split("/")):
            raise ValueError(f"line {number} of {SUMS} names {name!r}, which is no file of this folder or named twice")
        sums[name] = digest
    return sums


def first_problem(folder: pathlib.Path, sums: Mapping[str, str], *, parts: Collection[str]) -> str | None:
    """Returns the first problem with the files of some sub-folders or directly in ``folder``, in words.

    It returns ``None`` if there is no problem.

    Args:
      folder: the folder whose checksums are given.
      sums: the checksums from :func:`read_sums`.
      parts: names of sub-folders.
    """

    def concerns(name: str) -> bool:
        part, _, within = name.partition("/")
        return not within or part in parts

    listed = {name: digest for name, digest in sums.items() if concerns(name)}
    unlisted = [name for name in _files(folder) if concerns(name) and name not in listed]
    if unlisted:
        return f"{unlisted[0]} is not listed in its {SUMS}"
    absent = [part for part in parts if not any(name.startswith(f"{part}/") for name in listed)]
    if absent:
        return f"{absent[0]} is missing"
    bad = first_mismatch(folder, listed)
    return None if bad is None else f"{bad} is missing or differs from its checksum"


def first_mismatch(folder: pathlib.Path, sums: Mapping[str, str]) -> str | None:
    """Returns the first file of ``sums`` that is missing, unreadable or has another digest; ``None`` if none is."""

    def matches(name: str) -> bool:
        try:
            return _digest(folder / name) == sums[name]
        except (OSError, ValueError):  # ValueError: a damaged list may name a path that cannot exist.
            return False

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        verdicts = zip(sums, pool.map(matches, sums), strict=True)
        return next((name for name, good in verdicts if not good), None)


def _files(folder: pathlib.Path) -> list[str]:
    """Returns the names of all files below a folder.

    It leaves out the file of checksums and the hidden files that a desktop or a network file system creates.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in names if not name.startswith(SUMS) and not any(w[0] == "." for w in name.split("/"))]


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
