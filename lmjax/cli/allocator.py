"""Training on CPUs with memory that the allocator keeps: the command begins once more, before jax is imported.

Each step of XLA on a CPU allocates its large buffers anew. By default glibc asks the system for each of them and gives
it back, so that every step pays for thousands of page faults. Three of glibc's settings avoid it: freed memory is kept
for the next step, and the kernel is asked for pages of 2 MB. glibc reads them when a process begins, hence the new
beginning: the same command in the same process, ``exec``, which takes some twenty milliseconds.

``LMJAX_MALLOC=0`` leaves the allocator as it is, and a ``GLIBC_TUNABLES`` of the user's own is never changed.
"""

import os
import pathlib
import platform
import sys
from collections.abc import Mapping

VARIABLE = "LMJAX_MALLOC"
OFF = ("0", "off", "no", "none", "false")
TUNABLES = "GLIBC_TUNABLES"

_KEPT_BYTES = 2**30
_SETTINGS = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        f"glibc.malloc.mmap_threshold={_KEPT_BYTES}",
        f"glibc.malloc.trim_threshold={4 * _KEPT_BYTES}",
    )
)
"""Blocks below 1 GiB come from the heap, of which up to 4 GiB are kept when they are freed."""

_ACCELERATORS = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/accel0", "/dev/vfio/0")
"""Device files of NVIDIA and AMD GPUs and of TPUs."""


def wanted_tunables(environment: Mapping[str, str]) -> str | None:
    """Returns the value of ``GLIBC_TUNABLES`` that training on this machine's CPU is faster with.

    Returns:
      ``None`` if nothing is to be changed: the process has such a value already, or was told to leave it; it does not
      run on Linux with glibc 2.35 or later; or it trains on an accelerator.
    """
    if TUNABLES in environment or environment.get(VARIABLE, "").strip().lower() in OFF:
        return None
    library, version = platform.libc_ver()
    if sys.platform != "linux" or library != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return None
    platforms = environment.get("JAX_PLATFORMS", "")
    on_cpu = platforms == "cpu" or (not platforms and not any(pathlib.Path(file).exists() for file in _ACCELERATORS))
    return _SETTINGS if on_cpu else None


def begin_again_with_large_blocks() -> None:
    """Replaces this process by one of the same command with :func:`wanted_tunables`, unless there are none.

    A process that was started as something else, and only calls the command's function, is not replaced.
    """
    arguments = sys.argv[1:]
    tunables = wanted_tunables(os.environ)
    if tunables is None or not arguments or sys.orig_argv[-len(arguments) :] != arguments:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, TUNABLES: tunables})
