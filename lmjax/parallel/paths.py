"""A check that paths are on a local or mounted file system; addresses such as ``gs://BUCKET/RUN`` are refused."""

import os
import re

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_MOUNTS = {"gs": "gcsfuse", "s3": "mount-s3", "az": "blobfuse2", "abfs": "blobfuse2", "abfss": "blobfuse2"}


def refuse_address(name: str, path: str | os.PathLike[str] | None) -> None:
    """Refuses an address in place of a path; it would be taken for a folder with the name ``gs:``.

    Args:
      name: the field or option, for the message.
      path: the value; in a ``pathlib.Path`` one of the two slashes is missing.

    Raises:
      ValueError: it begins with a scheme such as ``gs://``.
    """
    text = "" if path is None else os.fspath(path)
    match = _ADDRESS.match(text)
    if match is None:
        return
    scheme = match[1].lower()
    if scheme in _MOUNTS:
        remedy = f"mount the bucket (with {_MOUNTS[scheme]}) and give the path that it then has"
    elif scheme == "file":
        remedy = "give the path without file://"
    else:
        remedy = "mount it, or copy it to a disk, and give the path that it then has"
    raise ValueError(f"{name}={text}: only paths of local and mounted file systems can be read and written: {remedy}")
