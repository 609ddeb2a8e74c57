"""Files of a corpus, on a local disk or at an address of fsspec (``gs://``, ``s3://``, ``hf://``, ``https://``)."""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from lmjax.remote.address import READ_PACKAGES
from lmjax.remote.answered import has_answered, note_answer
from lmjax.remote.errors import remote_error

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class Found(NamedTuple):
    """A file: its path or address, its size in bytes, and a number that changes with its content."""

    path: str
    size: int
    version: int


def is_address(path: str) -> bool:
    """Returns whether a path is an address such as ``gs://BUCKET/FILE``."""
    return _ADDRESS.match(path) is not None


def open_file(path: str) -> Any:
    """Opens a file for reading bytes.

    Raises:
      OSError: it cannot be read.
      ValueError: the package for such addresses is not installed, or the storage refuses.
      RemoteError: the storage cannot be reached.
    """
    if not is_address(path):
        return open(path, "rb")
    with _naming(path):
        file_system, name = _file_system(path)
        return file_system.open(name, "rb")


def state_of(path: str) -> Found:
    """Returns the size of a local file, and the time of its last change."""
    status = os.stat(path)
    return Found(path, status.st_size, status.st_mtime_ns)


def find_addresses(path: str, document_glob: str) -> tuple[str, list[Found]]:
    """Returns the files that an address names: a file, a folder whose files match the glob, or a glob.

    Args:
      path: the address.
      document_glob: which files of a folder.

    Returns:
      The folder of all of them, and the files.

    Raises:
      ValueError: the package for such addresses is not installed, or the storage refuses.
      RemoteError: the storage cannot be reached.
    """
    with _naming(path):
        file_system, name = _file_system(path)
        if any(sign in name for sign in "*?[") and not path.lower().startswith("http"):
            names, root = file_system.glob(name), re.split(r"[*?\[]", name)[0].rpartition("/")[0]
        elif not path.lower().startswith("http") and file_system.isdir(name):
            root = name.rstrip("/")
            names = file_system.glob(f"{root}/{document_glob}")
        else:
            names, root = [name], name.rpartition("/")[0]
        found = []
        for one in sorted(names):
            try:
                facts = file_system.info(one)
            except FileNotFoundError:
                continue
            if facts.get("type") != "file":
                continue
            if facts.get("size") is None:
                raise ValueError("the server does not tell its size: fetch it, and give the path it then has")
            address = one if is_address(one) else file_system.unstrip_protocol(one)
            found.append(Found(address, int(facts["size"]), _version(facts)))
        return root if is_address(root) else file_system.unstrip_protocol(root), found


def _version(facts: dict) -> int:
    """Returns a number of what the storage says of a file's content: its time, tag or checksum."""
    names = ("mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "md5Hash", "created", "blob_id")
    told = repr([str(facts[name]) for name in names if facts.get(name)])
    return int.from_bytes(hashlib.blake2b(told.encode(), digest_size=7).digest(), "little")


def _file_system(path: str) -> tuple[Any, str]:
    import fsspec

    return fsspec.core.url_to_fs(path)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Turns the errors of storages, which each have classes of their own, into one that names the address."""
    try:
        yield
        note_answer(path)
    except ImportError as error:
        package = READ_PACKAGES.get(path.partition(":")[0].lower())
        remedy = f"pip install {package}" if package else "install the package for it"
        raise ValueError(f"{path}: reading such addresses needs another package ({error}): {remedy}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file: correct the address") from None
    except Exception as error:
        raise remote_error(path, error, has_answered=has_answered(path)) from error
