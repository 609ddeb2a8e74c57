"""Finds out whether a lock on a file of a folder reaches the other machines that see the folder."""

import os
import pathlib
import re

MOUNTS = pathlib.Path("/proc/self/mountinfo")
_LOCAL_LOCKS = {
    # NFS keeps flock() to this machine with these options, Lustre without flock.
    "nfs": re.compile(r"(^|,)(nolock|local_lock=(all|flock))(,|$)"),
    "nfs4": re.compile(r"(^|,)local_lock=(all|flock)(,|$)"),
    "lustre": re.compile(r"^(?!.*(^|,)flock(,|$))"),
    "cifs": re.compile(r"(^|,)nobrl(,|$)"),
    "9p": re.compile(""),
    "virtiofs": re.compile(""),
}


def locks_reach(folder: pathlib.Path) -> bool:
    """Returns False if a lock in this folder may be unknown to other machines that see it.

    This is so for mounted buckets and most other file systems in user space (``fuse``), and for NFS and Lustre with
    some options. Where the system does not tell, the answer is True.

    Args:
      folder: a folder, which need not exist.
    """
    kind, options = _mount_of(folder)
    if kind == "fuse" or kind.startswith("fuse."):
        return False
    pattern = _LOCAL_LOCKS.get(kind)
    return pattern is None or pattern.search(options) is None


def _mount_of(folder: pathlib.Path) -> tuple[str, str]:
    """Returns the type and the options of the file system of a folder; empty where the system does not tell."""
    try:
        lines = MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return "", ""
    place, found, longest = os.path.realpath(folder), ("", ""), -1
    for line in lines:
        words = line.split(" ")
        if "-" not in words[6:] or len(words) < 10:
            continue
        dash = words.index("-", 6)
        # Spaces and the like are written as octal numbers.
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[4])
        if os.path.commonpath([place, point]) == point and len(point) >= longest:
            options = ",".join([words[5], *words[dash + 3 : dash + 4]])
            found, longest = (words[dash + 1], options), len(point)
    return found
