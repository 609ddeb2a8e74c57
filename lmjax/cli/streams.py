"""Standard output and error as a program finds them: closed, not UTF-8, or with a reader that goes away."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


def repair_streams() -> None:
    """Makes standard input, output and error usable, whatever we were started with.

    One that is closed becomes ``/dev/null``: otherwise the next file that is opened takes its number, and
    gets what libraries print. What an encoding cannot say is written as an escape (``\\u2026``).
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
        stream = getattr(sys, name)
        if mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output(stream: Any) -> None:
    """Sends what is still to come, and what waits to be written, to ``/dev/null``."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


class _Unfailing:
    """A stream whose failures to write are nobody's concern."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            drop_output(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            drop_output(self._stream)


@contextlib.contextmanager
def unfailing_output() -> Iterator[None]:
    """Work that goes on when nobody can read what it prints: a closed pipe, a lost terminal, a full disk."""
    with contextlib.redirect_stdout(_Unfailing(sys.stdout)), contextlib.redirect_stderr(_Unfailing(sys.stderr)):
        yield
