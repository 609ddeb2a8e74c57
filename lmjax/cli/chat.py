"""`lmjax sample RUN --chat`: the loop that reads messages and prints answers."""

import contextlib
import signal
import sys
from collections.abc import Iterator

from lmjax.runs.chat import Chat


def converse(chat: Chat) -> None:
    """Reads a message a line from standard input and prints the answers, until the input ends.

    On a terminal, Ctrl-C breaks off an answer, and ends the chat where a message is waited for, as Ctrl-D does.

    Raises:
      ValueError: the input is not UTF-8.
    """
    was_told = False
    with _interruptible():
        for message in _messages():
            try:
                with contextlib.closing(chat.answer(message)) as pieces:
                    for text in pieces:
                        sys.stdout.write(text)
                        sys.stdout.flush()
            except KeyboardInterrupt:
                if not sys.stdin.isatty():
                    raise
            except ValueError as error:
                if not sys.stdin.isatty():
                    raise
                print(f"error: {error}", file=sys.stderr)
            print(flush=True)
            if chat.dropped and not was_told:
                print("the context is full: the oldest turns are left out from now on", file=sys.stderr)
                was_told = True


def _messages() -> Iterator[str]:
    """The lines of standard input that are not empty."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (it gives `input` a history and editing)
    while True:
        try:
            line = input("> ") if sys.stdin.isatty() else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            print(flush=True)
            return
        except UnicodeDecodeError:
            raise ValueError("standard input is not UTF-8: convert it") from None
        if not line and not sys.stdin.isatty():
            return
        if line.strip():
            yield line.rstrip("\r\n")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """A context in which Ctrl-C raises KeyboardInterrupt, unless it is ignored."""
    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.SIG_IGN:
        yield
        return
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    except ValueError:  # outside of the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
