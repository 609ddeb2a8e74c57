"""Standard output and error as a program finds them: closed, not UTF-8, or with a reader that goes away."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


def repair_streams() -> None:
    """Makes standard input, output and error usable, however the process was started.

    A closed stream becomes ``/dev/null``. Otherwise the next file that is opened would take its number, and
    receive what libraries print. Characters that the encoding lacks are written as escapes (``\\u2026``).
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
    """Sends all further output of a stream, and what waits in its buffer, to ``/dev/null``."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


class _Unfailing:
    """A stream that ignores failures to write."""

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
    """A context in which failures to print are ignored: a closed pipe, a lost terminal, a full disk."""
    with contextlib.redirect_stdout(_Unfailing(sys.stdout)), contextlib.redirect_stderr(_Unfailing(sys.stderr)):
        yield
