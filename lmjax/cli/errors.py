"""How a command ends: one clear message and an exit code, never a traceback for what we foresaw.

====  =======================================================================================
code  meaning
====  =======================================================================================
0     done, or saved and stopped because a signal asked for it
1     a fault: full disk, damaged checkpoint, loss that is not finite, out of memory, a bug;
      or nobody reads what is printed (`lmjax preview ... | head`)
2     something for the user to change: a value, a path, a missing package, a folder in use
130   Ctrl-C where there was nothing to save: before the first step, or in another command
138   SIGUSR1 (Slurm's notice before its time limit) where there was nothing to save
143   SIGTERM where there was nothing to save
====  =======================================================================================

With ``LMJAX_DEBUG=1`` in the environment tracebacks are printed as well, ours and the libraries'.
"""

import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from absl import logging as absl_logging

from lmjax.cli.streams import drop_output
from lmjax.parallel import distributed
from lmjax.tokenizers.panics import is_panic

DEBUG_VARIABLE = "LMJAX_DEBUG"

USER_ERRORS = (
    ValueError,
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)


def run_command(command: Callable[[], object]) -> NoReturn:
    """Runs a command and exits the process with its code.

    Raises:
      SystemExit: always, with the code of the table above.
    """
    if not _debugging():
        _silence_libraries()
    try:
        code = _run_and_flush(command)
    except BrokenPipeError:
        # The reader of our output has gone (`lmjax preview | head`), so there is nobody to tell.
        drop_output(sys.stdout)
        code = 1
    except KeyboardInterrupt:
        _tell("interrupted")
        code = 130
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        if _debugging():
            traceback.print_exc()
        message, code = describe(error)
        _tell(f"error: {message}")
    try:
        sys.stdout.flush()
    except OSError:
        # Otherwise Python tries to write once more as it ends, and shows a traceback.
        drop_output(sys.stdout)
    distributed.leave(code)


def _run_and_flush(command: Callable[[], object]) -> int:
    """Runs the command, flushes standard output, and returns the exit code."""
    try:
        command()
        code = 0
    except SystemExit as end:  # After --help, or a wrong option.
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            _tell(end.code)
    sys.stdout.flush()
    return code


def _tell(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        drop_output(sys.stderr)


def _debugging() -> bool:
    return os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")


def _silence_libraries() -> None:
    """Hides the tracebacks that Orbax and asyncio log, since the same failure also reaches us as an exception.

    A full disk alone would log a dozen.
    """
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # A helper of multiprocessing warns when a signal ends us while processes prepare data. It inherits our options.
    sys.warnoptions.append("ignore:resource_tracker")
    shown = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            shown(unraisable)

    sys.unraisablehook = hook


def describe(error: BaseException) -> tuple[str, int]:
    """Returns the message for the user about an exception, and the exit code."""
    hint = f"set {DEBUG_VARIABLE}=1 for the traceback"
    if isinstance(error, OSError):
        return _describe_os_error(error)
    if isinstance(error, USER_ERRORS):
        return str(error) or f"{type(error).__name__} without a message: {hint}", 2
    if isinstance(error, ImportError):
        return f"{error}: is the package, or one of its extras, installed?", 2
    # This comes before the next test, because a checkpoint that finds the disk full says RESOURCE_EXHAUSTED too.
    if type(error).__module__.startswith("lmjax."):
        return str(error), 1
    if "RESOURCE_EXHAUSTED" in str(error) or isinstance(error, MemoryError):
        remedy = "use a smaller batch, more microbatches, rematerialisation, or more devices"
        return f"out of memory: {_first_line(error)}; {remedy}", 1
    return f"unexpected {type(error).__name__}: {_first_line(error)} ({hint})", 1


def _describe_os_error(error: OSError) -> tuple[str, int]:
    code = 2 if isinstance(error, USER_ERRORS) or error.errno in (errno.EROFS, errno.ENAMETOOLONG) else 1
    if error.strerror is None:
        return str(error), code
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    return f"{where}{error.strerror}{_REMEDIES.get(error.errno or 0, '')}", code


_FREE_SPACE = "; free some space and run the same command again (what was finished is intact)"
_REMEDIES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "; the file system or a limit (`ulimit -f`) forbids files of this size: use another folder",
    errno.ENAMETOOLONG: "; choose a shorter one",
    errno.EROFS: "; choose a folder that can be written",
    errno.EACCES: "; check its permissions, or choose another path",
    errno.EPERM: "; check its permissions, or choose another path",
    errno.ENOTDIR: "; a file is where a folder should be: choose another path",
    errno.EEXIST: "; move it away, or choose another path",
    errno.EISDIR: "; a folder is where a file should be: move it away, or choose another path",
}


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no message")
