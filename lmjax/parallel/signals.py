"""SIGTERM, SIGUSR1 and Ctrl-C outside of the training loop: the process ends at once and says what is kept.

A handler in Python runs when the main thread returns to Python, and a compilation or the training of a tokenizer may
not return for minutes. An exception in the middle of jax's tracing can crash the interpreter at its end. The signal
therefore wakes a separate thread (through ``signal.set_wakeup_fd``), which says what is kept and ends the process
without cleaning up.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

SHOW_CURSOR = "\x1b[?25h"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_kept = ["what was finished before is intact"]


@contextlib.contextmanager
def kept(text: str) -> Iterator[None]:
    """Sets what a person is told if a signal ends the process during this block; an inner block has priority."""
    _kept.append(text)
    try:
        yield
    finally:
        _kept.remove(text)


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Lets SIGTERM, Ctrl-C and SIGUSR1 end the process, with 143, 130 and 138, unless code inside handles them.

    A signal that was ignored when the process started (``nohup``, a shell's background job) stays ignored. Outside of
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
            # A handler that was not set from Python is None and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(previous_descriptor)
        os.close(write_end)
        thread.join()
        os.close(read_end)


def _left_to_the_thread(number: int, frame: FrameType | None) -> None:
    pass


def _watch(descriptor: int) -> None:
    while byte := os.read(descriptor, 1):
        # Another handler, such as that of the training loop, runs in the main thread.
        if byte[0] in _SIGNALS and signal.getsignal(byte[0]) is _left_to_the_thread:
            _end(byte[0])


def _end(number: int) -> None:
    word = "interrupted" if number == signal.SIGINT else f"{signal.Signals(number).name}: ended"
    text = f"{word}; {_kept[-1]}\n"
    with contextlib.suppress(OSError):
        # The message goes below a progress bar, and the cursor, which the bar hides, is shown again.
        os.write(2, ((SHOW_CURSOR + "\n" if sys.stderr.isatty() else "") + text).encode(errors="backslashreplace"))
    # The main thread may have locked the stream while it waits for a reader that does not read.
    flush = threading.Thread(target=_flush, daemon=True)
    flush.start()
    flush.join(timeout=1)
    os._exit(128 + number)


def _flush() -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
