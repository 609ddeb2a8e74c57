"""A cache of files of object storage on a local disk, which the processes of a host share.

A file is named by its SHA-256, so that its name says its content. It appears under this name once it is whole and has
this sum. The cache has a limit in bytes; the files that were not read for the longest time are deleted first.

Locks of the system (``flock``) order the processes and their threads, and end with them:

- a file that is read is locked in shared mode; only files that nobody reads are deleted;
- ``.SHA256.fetching`` is locked by the one who fetches the file; others wait for it. Its size, of which nothing is on
  the disk, reserves the room for the file. Whatever a process that was killed left is deleted when room is made;
- ``.room`` is locked while room is made.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import pathlib
import threading
import time
from collections.abc import Iterator
from io import BufferedReader

from lmjax.atomic_files import SUFFIX, take_name, to_disk
from lmjax.remote.bucket import Bucket
from lmjax.remote.errors import RemoteError, RemoteMistakeError

RETRY_SECONDS = (1.0, 5.0, 25.0)
"""How long a fetch waits before each further try when the storage cannot be reached."""
ROOM_SECONDS = 120.0
"""How long a fetch waits for files that are read, or fetched by others, to become deletable."""
FETCHING, ROOM = ".fetching", ".room"
_TOUCH_SECONDS = 1.0
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_PIECE = 1 << 20


class FetchError(RuntimeError):
    """A file is missing in object storage, is not the one that is expected, or cannot be kept here."""


class FileCache:
    """Files of object storage on a local disk. Its methods may be called from several threads."""

    def __init__(self, folder: pathlib.Path, *, most_bytes: int, check_bytes: float):
        """Makes the folder if needed.

        Args:
          folder: where the files are kept; several caches of one folder share them.
          most_bytes: the limit for all files of the folder, those that are being fetched included.
          check_bytes: how many bytes of files that are there already are compared with their sums, as they are read
            for the first time. A file that is fetched is always compared.

        Raises:
          OSError: the folder cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._most_bytes, self._check_bytes = folder, most_bytes, check_bytes
        self._checked: set[str] = set()
        self._mutex = threading.Lock()

    @contextlib.contextmanager
    def opened(self, bucket: Bucket, name: str, *, sha256: str, size: int) -> Iterator[BufferedReader]:
        """Opens a file, which is fetched if it is not there; it is not deleted before the block ends.

        Args:
          bucket: the folder in object storage.
          name: the name of the file in it.
          sha256: its SHA-256 in hex.
          size: its size in bytes.

        Raises:
          FetchError: it is missing there, or differs from its sum; or the disk is full.
          RemoteError: the storage cannot be reached.
          ValueError: it is larger than the cache may be.
        """
        file = self._open_cached(sha256, size) or self._fetch(bucket, name, sha256, size)
        with file:
            yield file

    def _open_cached(self, sha256: str, size: int) -> BufferedReader | None:
        path = self._folder / sha256
        try:
            file = open(path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return None
        _lock(file.fileno(), fcntl.LOCK_SH)
        status = os.fstat(file.fileno())
        if status.st_size != size or not self._is_whole(file, sha256, size):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            file.close()
            return None
        if time.time() - status.st_mtime > _TOUCH_SECONDS:
            with contextlib.suppress(OSError):
                os.utime(file.fileno())
        return file

    def _is_whole(self, file: BufferedReader, sha256: str, size: int) -> bool:
        """Compares a file with its sum, if it was not compared before and if that many bytes are to be compared."""
        with self._mutex:
            if sha256 in self._checked or self._check_bytes <= 0:
                return True
            self._check_bytes -= size
        whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
        file.seek(0)
        if whole:
            with self._mutex:
                self._checked.add(sha256)
        return whole

    def _fetch(self, bucket: Bucket, name: str, sha256: str, size: int) -> BufferedReader:
        """Fetches a file unless another process or thread does so meanwhile, and opens it."""
        place = f"{bucket.address}/{name}"
        with _locked(self._folder / f".{sha256}{FETCHING}") as reservation:
            found = self._open_cached(sha256, size)
            if found is not None:
                return found
            self._reserve(reservation, size, place)
            partial = self._folder / f".{sha256}.{os.getpid()}{SUFFIX}"
            try:
                for last in (False, True):
                    _download(bucket, name, partial)
                    file = open(partial, "rb")  # noqa: SIM115
                    if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                        break
                    file.close()
                    if last:
                        raise FetchError(
                            f"{place}: damaged (twice, its sha256 was not the manifest's): copy the file there again, "
                            f"or prepare the data again"
                        )
                file.seek(0)
                # Locked before it has its name, so that nobody deletes it before it is read.
                _lock(file.fileno(), fcntl.LOCK_SH)
                to_disk(file)
                take_name(partial, self._folder / sha256)
            except BaseException as error:
                partial.unlink(missing_ok=True)
                if isinstance(error, OSError) and error.errno in _NO_SPACE:
                    raise FetchError(
                        f"{self._folder}: the disk is full: no room for {place} ({size:,} bytes): delete something, "
                        f"set a smaller data.cache_gigabytes, or name a folder on another disk in XDG_CACHE_HOME"
                    ) from None
                if isinstance(error, RemoteError) and isinstance(error.__cause__, FileNotFoundError):
                    raise FetchError(
                        f"{place}: is missing: copy the file there again, or prepare the data again"
                    ) from None
                raise
            with self._mutex:
                self._checked.add(sha256)
            return file

    def _reserve(self, reservation: int, size: int, place: str) -> None:
        """Makes room for a file, and reserves it by the size of the file that is open as ``reservation``.

        Raises:
          ValueError: the cache may not be as large as the file.
          FetchError: all other files have been in use for a long time.
        """
        if size > self._most_bytes:
            raise ValueError(too_small(place, size, self._most_bytes))
        until = time.monotonic() + ROOM_SECONDS
        while True:
            with _locked(self._folder / ROOM, keep=True):
                if self._make_room(size):
                    os.ftruncate(reservation, size)
                    return
            if time.monotonic() > until:
                raise FetchError(
                    f"{self._folder}: no room for {place} ({size:,} bytes): all files of the cache are in use, and it "
                    f"may have {self._most_bytes:,} bytes: raise data.cache_gigabytes"
                )
            time.sleep(0.02)

    def _make_room(self, size: int) -> bool:
        """Deletes files until there is room for another one; returns whether there is."""
        used, files, fetching, partials = 0, [], set(), []
        for entry in os.scandir(self._folder):
            if entry.name.endswith(SUFFIX):
                partials.append(entry)
                continue
            if entry.name.endswith(FETCHING):
                if _delete_unused(entry.path):
                    continue
                fetching.add(entry.name[1:65])
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat()
                used += status.st_size
                if not entry.name.startswith("."):
                    files.append((status.st_mtime, status.st_size, entry.path))
        for entry in partials:
            if entry.name[1:65] not in fetching:
                pathlib.Path(entry.path).unlink(missing_ok=True)
        for _, its_size, path in sorted(files):
            if used + size <= self._most_bytes:
                break
            if _delete_unused(path):
                used -= its_size
        return used + size <= self._most_bytes


def too_small(place: str, size: int, most_bytes: int) -> str:
    """Returns what to say of a file that is larger than the cache may be."""
    return (
        f"data.cache_gigabytes={most_bytes / 1e9:g}: {place} alone has {size:,} bytes: raise it, or prepare the data "
        f"with smaller shards (data.shard_bytes)"
    )


def _download(bucket: Bucket, name: str, path: pathlib.Path) -> None:
    """Copies an object to a local file; a storage that cannot be reached is tried again.

    Raises:
      RemoteError: it cannot be read.
      OSError: the local file cannot be written.
    """
    for seconds in (*RETRY_SECONDS, None):
        try:
            bucket.download(name, path)
            return
        except RemoteError as error:
            if seconds is None or isinstance(error, RemoteMistakeError):
                raise
            time.sleep(seconds)


def _lock(descriptor: int, mode: int) -> bool:
    """Locks an open file; returns False if another process holds it. Where there are no locks it does nothing."""
    try:
        fcntl.flock(descriptor, mode)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


@contextlib.contextmanager
def _locked(path: pathlib.Path, *, keep: bool = False) -> Iterator[int]:
    """Waits for the lock of a file, which is made, and deleted at the end unless it is to be kept."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _lock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                break
        # The one who held it has deleted it.
        os.close(descriptor)
    try:
        yield descriptor
    finally:
        if not keep:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _delete_unused(path: str) -> bool:
    """Deletes a file that nobody has locked; returns whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return True
    finally:
        os.close(descriptor)
