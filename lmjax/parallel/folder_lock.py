"""One process writes into a folder at a time; the lock goes with its process, however that ends."""

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

# What file systems without locks answer (a NFS mount without a lock service, Lustre without -o flock).
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

_holders: dict[str, int] = {}
"""Folders this process holds, and the thread that does: it may ask again."""


class FolderInUseError(ValueError):
    """Another process writes into the folder."""


@contextlib.contextmanager
def folder_lock(folder: pathlib.Path, doing: str, *, wait: bool = False) -> Iterator[None]:
    """Keeps other processes from writing into ``folder`` until the block ends.

    The lock is the system's (``flock`` on a file of the folder): it also ends with a process that is
    killed, and it holds between the machines that share a folder by NFS. A file that a killed process
    left is taken over. The thread that holds a folder may ask for it again.

    Args:
      folder: made if it is not there, and removed again if nothing was put into it.
      doing: what happens to the folder, as in "is being trained"; others are told.
      wait: wait for the other process instead of refusing.

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
            # While it is held: whoever opened it meanwhile sees that it is not the folder's any more.
            with contextlib.suppress(OSError):
                os.unlink(folder / LOCK_FILE)
            os.close(descriptor)
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


@contextlib.contextmanager
def fresh_folder(folder: pathlib.Path, doing: str) -> Iterator[None]:
    """:func:`folder_lock` of a folder that holds nothing yet.

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
        # Not inherited by programs started from here, which would keep the lock alive.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise FolderInUseError(
                f"{folder} {holder}: wait until it is done, end it, or choose another folder"
            ) from None
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
        # The one that held it has ended, and its file with it.
        os.close(descriptor)
    text = f"{doing} by process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
    return descriptor


def _is_the_folders(path: pathlib.Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    """What the other process wrote of itself; it may not have come to that yet."""
    for _ in range(20):
        text = os.pread(descriptor, 1000, 0).decode(errors="replace")
        if text.endswith("\n"):
            return text.strip()
        time.sleep(0.05)
    return "is being written to by another process"
