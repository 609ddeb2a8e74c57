"""SIGTERM and Ctrl-C outside of the training loop: the process ends at once, with a word on what is kept.

A handler written in Python runs when the main thread comes back to Python, which a compile, or the
training of a tokenizer, may not do for minutes; and an exception thrown into the middle of jax's tracing
can crash the interpreter as it is torn down. So the signal wakes a thread of its own (through
``signal.set_wakeup_fd``), which says what is kept and leaves without tearing anything down.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

SHOW_CURSOR = "\x1b[?25h"
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_kept = ["what was finished before is intact"]


@contextlib.contextmanager
def kept(text: str) -> Iterator[None]:
    """What to tell a person whose signal ends the process during this block; an inner block goes first."""
    _kept.append(text)
    try:
        yield
    finally:
        _kept.remove(text)


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the process, with 143 and 130, unless something inside takes them for itself.

    A signal that whoever started us ignores (``nohup``, a shell's background job) stays ignored. Outside
    the main thread nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    previous_descriptor = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in previous.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _left_to_the_thread)
    thread = threading.Thread(target=_watch, args=(read_end,), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in previous.items():
            # A handler that was not set from Python is None and cannot be put back by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(previous_descriptor)
        os.close(write_end)
        thread.join()
        os.close(read_end)


def _left_to_the_thread(number: int, frame: FrameType | None) -> None:
    pass


def _watch(descriptor: int) -> None:
    while byte := os.read(descriptor, 1):
        # Another handler, such as the training loop's, is asked in the main thread.
        if byte[0] in _SIGNALS and signal.getsignal(byte[0]) is _left_to_the_thread:
            _end(byte[0])


def _end(number: int) -> None:
    word = "interrupted" if number == signal.SIGINT else f"{signal.Signals(number).name}: ended"
    text = f"{word}; {_kept[-1]}\n"
    with contextlib.suppress(OSError):
        # Below a progress bar, which also hides the cursor.
        os.write(2, ((SHOW_CURSOR + "\n" if sys.stderr.isatty() else "") + text).encode(errors="backslashreplace"))
    # The main thread may hold the stream, and wait for a reader that does not read.
    flush = threading.Thread(target=_flush, daemon=True)
    flush.start()
    flush.join(timeout=1)
    os._exit(128 + number)


def _flush() -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
