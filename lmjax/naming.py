"""An error says where it arose: at which field, part or file."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def naming(where: object) -> Iterator[None]:
    """Puts ``where`` and a colon before the message of a ``ValueError`` of the block.

    Raises:
      ValueError: the block raised one, also of a subclass.

    Example:
      >>> with naming("config.json"):
      ...     raise ValueError("steps=0: must be at least 1")
      Traceback (most recent call last):
      ValueError: config.json: steps=0: must be at least 1
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


@contextlib.contextmanager
def naming_file(path: pathlib.Path | str) -> Iterator[None]:
    """Names ``path`` in an ``OSError`` of the block that names no file, as that of a write to a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise
