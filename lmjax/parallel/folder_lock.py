"""A lock with which one process at a time writes into a folder; it ends with its process, however the process ends."""

import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Iterator

LOCK_FILE = ".lmjax-lock"

# The errors of file systems without locks (NFS without a lock service, Lustre without -o flock).
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

_holders: dict[str, int] = {}
"""The folders that this process has locked, each with its thread, which may lock it again."""


class FolderInUseError(ValueError):
    """Another process writes into the folder."""


@contextlib.contextmanager
def folder_lock(folder: pathlib.Path, doing: str, *, wait: bool = False) -> Iterator[None]:
    """Keeps other processes from writing into ``folder`` until the block ends.

    The lock is the system's (``flock`` on a file in the folder). It also ends when its process is killed, and it
    works between machines that share a folder by NFS. The file of a killed process is taken over. The thread that
    holds a folder may lock it again.

    Args:
      folder: the folder; it is made if it does not exist, and removed if it is empty at the end.
      doing: what happens to the folder, such as "is being trained"; the message to other processes says it.
      wait: wait for the other process instead of refusing, and say so.

    Raises:
      FolderInUseError: another process holds it; the message names the process and its machine.
      OSError: the folder cannot be made or written to.
    """
    key = os.path.realpath(folder)
    if _holders.get(key) == threading.get_ident():
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        descriptor = _acquire(folder, doing, wait=wait)
        try:
            _holders[key] = threading.get_ident()
            yield
        finally:
            _holders.pop(key, None)
            # Removed while it is locked, so that a process that has just opened it sees that it is no longer in the
            # folder.
            with contextlib.suppress(OSError):
                os.unlink(folder / LOCK_FILE)
            os.close(descriptor)
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


@contextlib.contextmanager
def fresh_folder(folder: pathlib.Path, doing: str) -> Iterator[None]:
    """Locks, like :func:`folder_lock`, a folder that must be empty.

    Raises:
      ValueError: it is not empty.
      FolderInUseError, OSError: as :func:`folder_lock`.
    """
    with folder_lock(folder, doing):
        if any(path.name != LOCK_FILE for path in folder.iterdir()):
            raise ValueError(f"{folder} exists and is not empty: name another folder")
        yield


def _acquire(folder: pathlib.Path, doing: str, *, wait: bool) -> int:
    path = folder / LOCK_FILE
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        # Programs that are started from here must not inherit it: they would keep the lock.
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            # The process that made the folder has just removed it.
            continue
        try:
            _lock(descriptor, folder, wait=wait)
        except FolderInUseError:
            os.close(descriptor)
            raise
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
            print(
                f"warning: the file system of {folder} has no locks ({error.strerror}): see that no other process "
                f"writes there",
                file=sys.stderr,
                flush=True,
            )
        if _is_the_folders(path, descriptor):
            break
        # The process that held it has ended and removed the file.
        os.close(descriptor)
    text = f"{doing} by process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
    return descriptor


def _lock(descriptor: int, folder: pathlib.Path, *, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(descriptor)
        if not wait:
            raise FolderInUseError(
                f"{folder} {holder}: wait until it is done, end it, or choose another folder"
            ) from None
        print(f"waiting: {folder} {holder}", file=sys.stderr, flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_the_folders(path: pathlib.Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    """Returns what the other process has written about itself, which may still be nothing."""
    for _ in range(20):
        text = os.pread(descriptor, 1000, 0).decode(errors="replace")
        if text.endswith("\n"):
            return text.strip()
        time.sleep(0.05)
    return "is being written to by another process"


def is_locked(folder: pathlib.Path) -> bool:
    """Returns whether a process writes into the folder now; False where the file system has no locks."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
