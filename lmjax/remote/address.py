"""Addresses of folders in object storage, such as ``s3://BUCKET/RUN``."""

import hashlib
import os
import pathlib
import re

PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "memory": "fsspec"}
"""The schemes whose addresses may stand for a run folder, each with the package that it needs.

``memory`` is fsspec's storage in the memory of the process, for tests.
"""
_ADDRESS = re.compile(rf"({'|'.join(PACKAGES)}):/+([^/].*)", re.IGNORECASE)


def address_of(path: str | os.PathLike[str] | None) -> str | None:
    """Returns the address that a path stands for; None if it is a path of a file system.

    Args:
      path: the path; in a ``pathlib.Path`` one of the two slashes is missing, which is repaired.
    """
    match = _ADDRESS.fullmatch("" if path is None else os.fspath(path))
    return None if match is None else f"{match[1].lower()}://{match[2].rstrip('/')}"


def copy_folder(address: str, use: str) -> pathlib.Path:
    """Returns the folder in which a local copy of an address is kept: ``~/.cache/lmjax/runs/USE/...``.

    Args:
      address: the address.
      use: ``"written"`` for the copy of a run that trains, ``"read"`` for that of other commands.

    Raises:
      RuntimeError: there is no home folder.
    """
    cache = os.environ.get("XDG_CACHE_HOME")
    base = pathlib.Path(cache) if cache else pathlib.Path.home() / ".cache"
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", address.partition("://")[2])[-60:]
    name = f"{plain}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    return (base / "lmjax" / "runs" / use / name).absolute()
