"""Which storages have answered: in this process, and in those before it that the same supervisor has started.

A storage that has never answered is probably not the one that was meant. One that has answered, and no longer does, is
out of order for a while. A run that is started again cannot know this by itself, so a supervisor keeps a file for the
runs that it starts and names it in ``LMJAX_ANSWERED``.
"""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

VARIABLE = "LMJAX_ANSWERED"
_here: set[str] = set()


def note_answer(address: str) -> None:
    """Notes that the storage of an address has answered."""
    storage = _storage_of(address)
    if storage in _here:
        return
    _here.add(storage)
    file = os.environ.get(VARIABLE)
    if file and storage not in _noted(file):
        # Without the note, a later start takes an outage for a mistake; nothing else is lost.
        with contextlib.suppress(OSError), open(file, "a", encoding="utf-8") as notes:
            notes.write(f"{storage}\n")


def has_answered(address: str) -> bool:
    """Returns whether the storage of an address has answered before."""
    storage = _storage_of(address)
    return storage in _here or storage in _noted(os.environ.get(VARIABLE))


def _storage_of(address: str) -> str:
    """Returns the beginning of an address that says whom to ask, as ``s3://BUCKET``."""
    return "/".join(address.split("/")[:3])


def _noted(file: str | None) -> set[str]:
    try:
        return set(pathlib.Path(file).read_text(encoding="utf-8").splitlines()) if file else set()
    except (OSError, ValueError):
        return set()


@contextlib.contextmanager
def shared_with_restarts() -> Iterator[None]:
    """Keeps the file, for all processes that are started until the block ends; one that is there already stays."""
    if VARIABLE in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="lmjax-supervised-") as folder:
        os.environ[VARIABLE] = str(pathlib.Path(folder) / "answered")
        try:
            yield
        finally:
            del os.environ[VARIABLE]
