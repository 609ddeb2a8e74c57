"""Files that are replaced as a whole: their name holds the old content or the new one, also after a loss of power.

The new content is written to another file in the same folder, which then takes the name. That file is forced to the
disk before (or the name may come to hold an empty file) and the folder after (or the name may go back to the old one).
"""

import contextlib
import errno
import json
import os
import pathlib
from collections.abc import Iterator
from typing import IO

SUFFIX = ".partial"
_CANNOT_FORCE = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM)
"""What a file system answers that cannot force a folder to the disk, or a folder that may not be read."""


def write_file(path: pathlib.Path, content: bytes | str) -> None:
    """Replaces the content of a file; text is written as UTF-8.

    Raises:
      OSError: it cannot be written; what was there before is there still.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: pathlib.Path, content: object, *, indent: int | None = 1, ensure_ascii: bool = True) -> None:
    """Replaces the content of a file by JSON, see :func:`write_file` and :func:`json.dumps`."""
    write_file(path, json.dumps(content, indent=indent, ensure_ascii=ensure_ascii) + "\n")


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """Opens a file that takes the name ``path`` when the block ends, or is deleted when the block fails.

    Raises:
      OSError: it cannot be written; names ``path`` where it would name the other file, or none.
    """
    partial = partial_path(path)
    try:
        with open(partial, "wb") as file:
            yield file
            to_disk(file)
        take_name(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            error.filename, error.filename2 = str(path), None
        raise


def partial_path(path: pathlib.Path) -> pathlib.Path:
    """Where this process writes ``path`` until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")


def is_partial(name: str) -> bool:
    """Whether a file of this name is what a process that was killed left of a :func:`partial_path`."""
    return name.startswith(".") and name.endswith(SUFFIX)


def to_disk(file: IO[bytes]) -> None:
    """Waits until what was written to an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def take_name(partial: pathlib.Path, path: pathlib.Path) -> None:
    """Gives a file that is on the disk its name, and waits until its folder on the disk says so."""
    os.replace(partial, path)
    try:
        _folder_to_disk(path.parent)
    except OSError as error:
        if error.errno not in _CANNOT_FORCE:
            raise


def _folder_to_disk(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
