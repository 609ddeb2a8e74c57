"""Addresses of folders in object storage, such as ``s3://BUCKET/RUN``."""

import hashlib
import os
import pathlib
import re
from collections.abc import Collection

PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "memory": "fsspec"}
"""The schemes whose addresses may stand for a run folder, each with the package that it needs.

``memory`` is fsspec's storage in the memory of the process, for tests.
"""
READ_PACKAGES = {
    **PACKAGES, "gcs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp", "https": "aiohttp",
    "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
}  # fmt: skip
"""The schemes of addresses that text and prepared data are read from, each with the package that it needs."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/+([^/].*)")


def address_of(path: str | os.PathLike[str] | None, *, schemes: Collection[str] = PACKAGES.keys()) -> str | None:
    """Returns the address that a path stands for; None if it is a path of a file system.

    Args:
      path: the path; in a ``pathlib.Path`` one of the two slashes is missing, which is repaired.
      schemes: the schemes of addresses; a path with another one is no address.
    """
    match = _ADDRESS.fullmatch("" if path is None else os.fspath(path))
    if match is None or match[1].lower() not in schemes:
        return None
    return f"{match[1].lower()}://{match[2].rstrip('/')}"


def stored_address(path: str | os.PathLike[str] | None) -> str | None:
    """Returns the address of prepared data that a path stands for; None if it is a path of a file system."""
    return address_of(path, schemes=READ_PACKAGES.keys())


def cache_folder() -> pathlib.Path:
    """Returns the folder of all local copies, ``~/.cache/lmjax`` or ``$XDG_CACHE_HOME/lmjax``.

    Raises:
      RuntimeError: there is no home folder.
    """
    cache = os.environ.get("XDG_CACHE_HOME")
    base = pathlib.Path(cache) if cache else pathlib.Path.home() / ".cache"
    return (base / "lmjax").absolute()


def copy_folder(address: str, use: str, *, kind: str = "runs") -> pathlib.Path:
    """Returns the folder in which a local copy of an address is kept: ``~/.cache/lmjax/KIND/USE/...``.

    Args:
      address: the address.
      use: ``"written"`` for what this machine writes, such as the copy of a run that trains, ``"read"`` for the rest.
      kind: what is there: ``"runs"`` or ``"data"``.

    Raises:
      RuntimeError: there is no home folder.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", address.partition("://")[2])[-60:]
    name = f"{plain}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    return cache_folder() / kind / use / name
