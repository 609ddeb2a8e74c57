"""A folder in object storage: whole objects by their name, and writes that happen only if nobody else has written."""

import contextlib
import os
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from lmjax.remote.address import PACKAGES, READ_PACKAGES
from lmjax.remote.answered import has_answered, note_answer
from lmjax.remote.errors import RemoteError, is_local, remote_error, status_of

SETTLE_SECONDS = 2.0
"""How long a writer waits before it looks who has written last, where the storage has no conditional writes."""


class Bucket:
    """The objects below an address. Its methods may be called from several threads.

    They raise :class:`lmjax.remote.errors.RemoteMistakeError`, a ``RemoteError`` that is a ``ValueError``, too, if the
    user has to change address, login, server or region.
    """

    def __init__(self, address: str):
        """Opens the folder, which need not exist; nothing is read or written yet.

        Args:
          address: such as ``s3://BUCKET/RUN``, see :func:`lmjax.remote.address.address_of`.

        Raises:
          ValueError: the package for such addresses is not installed.
          RemoteError: the storage cannot be used.
        """
        self.address, self._scheme = address, address.partition(":")[0]
        try:
            import fsspec

            with self._errors("", asks=False):
                self._files: Any = fsspec.filesystem(self._scheme, use_listings_cache=False)
        except ImportError as error:
            raise ValueError(
                f"{address}: such addresses need the package {READ_PACKAGES[self._scheme]} ({error}): pip install "
                + ("'lmjax[storage]'" if self._scheme in PACKAGES else READ_PACKAGES[self._scheme])
            ) from None
        self._root = self._files._strip_protocol(address).rstrip("/")

    def confirm(self) -> None:
        """Makes sure that the bucket exists, so that long work whose result goes there is not done in vain.

        Raises:
          RemoteMistakeError: it does not.
          RemoteError: the storage cannot be reached.
        """
        # Elsewhere there are no buckets. A login may write to one and not look at it.
        if self._scheme in ("s3", "gs"):
            with self._errors(""), contextlib.suppress(PermissionError):
                self._files.info(self._root.partition("/")[0])

    def read(self, name: str) -> bytes | None:
        """Returns the content of an object; None if there is none of this name.

        Raises:
          RemoteError: it cannot be read.
        """
        with self._errors(name):
            try:
                return self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Writes an object; readers see the old content or the new one.

        Raises:
          RemoteError: it cannot be written.
        """
        with self._errors(name):
            self._files.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Writes an object unless there is one of this name, and returns whether it was written.

        Raises:
          RemoteError: it cannot be written.
        """
        with self._errors(name):
            try:
                self._files.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                return False
        return True

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        """Writes an object if its content is ``old``, and returns whether it was written.

        S3 compares and writes in one operation. Elsewhere the last of two simultaneous writers wins, and both find out.

        Raises:
          RemoteError: it cannot be read or written.
        """
        with self._errors(name):
            if self.read(name) != old:
                return False
            if self._scheme != "s3":
                self._files.pipe_file(self._path(name), new)
                time.sleep(SETTLE_SECONDS)
                return self.read(name) == new
            tag = self._files.info(self._path(name), refresh=True)["ETag"]
            try:
                # The object may have changed between the two lines above.
                if self.read(name) != old:
                    return False
                self._files.pipe_file(self._path(name), new, IfMatch=tag)
            except OSError as error:
                if "PreconditionFailed" in str(error) or "pre-conditions" in str(error):
                    return False
                raise
        return True

    def upload(self, path: pathlib.Path, name: str) -> None:
        """Copies a local file to an object.

        Raises:
          RemoteError: it cannot be written, or it has another size afterwards.
          OSError: the file cannot be read.
        """
        size = path.stat().st_size
        with self._errors(name):
            self._files.put_file(os.fspath(path), self._path(name))
            found = self._files.info(self._path(name))["size"]
        if found != size:
            raise RemoteError(f"{self.address}/{name} has {found} bytes after the copy of {path}, which has {size}")

    def download(self, name: str, path: pathlib.Path) -> None:
        """Copies an object to a local file, whose folder is made if needed.

        Raises:
          RemoteError: it cannot be read.
          OSError: the file cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors(name):
            self._files.get_file(self._path(name), os.fspath(path))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Returns the number of bytes of each object below a folder, by its name.

        Raises:
          RemoteError: they cannot be listed.
        """
        with self._errors(folder):
            self._files.invalidate_cache()
            try:
                found = self._files.find(self._path(folder), detail=True)
            except FileNotFoundError:
                return {}
        return {path[len(self._root) + 1 :]: facts["size"] for path, facts in found.items()}

    def modified(self, name: str) -> float:
        """Returns when an object was last written, in seconds since 1970.

        Raises:
          RemoteError: there is no such object.
        """
        with self._errors(name):
            return self._files.modified(self._path(name)).timestamp()

    def delete(self, *names: str) -> None:
        """Deletes objects; one that does not exist is passed over.

        Raises:
          RemoteError: one cannot be deleted.
        """
        for name in names:
            with self._errors(name), contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    @contextlib.contextmanager
    def _errors(self, name: str, *, asks: bool = True) -> Iterator[None]:
        """Turns the errors of storages, which have classes of their own, into one that names the object.

        Errors of local files stay what they are.
        """
        try:
            yield
        except (RemoteError, ImportError):
            raise
        except Exception as error:
            if is_local(error):
                raise
            place = f"{self.address}/{name}".rstrip("/")
            answered_before = has_answered(self.address)
            if status_of(error) is not None:
                note_answer(self.address)
            raise remote_error(place, error, has_answered=answered_before) from error
        if asks:
            note_answer(self.address)


class Folder:
    """The part of :class:`Bucket` that a lease needs, for a folder of a shared file system."""

    def __init__(self, folder: pathlib.Path):
        """Opens a folder that exists."""
        self.address, self._folder = str(folder), folder

    def read(self, name: str) -> bytes | None:
        """Returns the content of a file; None if there is none."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def create(self, name: str, content: bytes) -> bool:
        """Writes a file unless there is one, and returns whether it was written."""
        partial = self._write(name, content)
        try:
            # Unlike O_EXCL and a write, a link is there at once with its content, on NFS too.
            os.link(partial, self._folder / name)
            return True
        except FileExistsError:
            return False
        finally:
            partial.unlink()

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        """Writes a file if its content is ``old``; of two simultaneous writers the last one wins, and both find out."""
        if self.read(name) != old:
            return False
        os.replace(self._write(name, new), self._folder / name)
        time.sleep(SETTLE_SECONDS)
        return self.read(name) == new

    def write(self, name: str, content: bytes) -> None:
        """Replaces a file."""
        os.replace(self._write(name, content), self._folder / name)

    def delete(self, *names: str) -> None:
        """Deletes files; one that does not exist is passed over."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def _write(self, name: str, content: bytes) -> pathlib.Path:
        partial = self._folder / f".{name}.{os.getpid()}.{threading.get_ident()}.partial"
        partial.write_bytes(content)
        return partial
