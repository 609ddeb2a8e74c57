"""What jax has compiled, kept for the next start: a second start of the same run or prompt compiles nothing.

By default the folder is ``~/.cache/lmjax`` (``$XDG_CACHE_HOME/lmjax``). ``LMJAX_CACHE`` names another folder; with
``0`` or ``off`` nothing is kept. If jax's own ``JAX_COMPILATION_CACHE_DIR`` is set, jax's settings are not changed.
Jax makes the keys of the entries from its version, the program, the compiler's options and the devices.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import sys
import time
import warnings

VARIABLE = "LMJAX_CACHE"
OFF = ("0", "off", "no", "none", "false")

MOST_BYTES = 2 * 2**30
"""Largest size of the cache; jax removes the entries that were used longest ago."""
MOST_ENTRIES = 1000
"""Most entries after a start, which removes the oldest, since jax looks at all entries whenever it adds one."""
HALF_WRITTEN_SECONDS = 600
"""An entry without its time of use that is older than this was left by a killed process.

A younger one may belong to a process that is still writing it.
"""

_SETTINGS = {
    "jax_compilation_cache_max_size": MOST_BYTES,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def use_compile_cache() -> pathlib.Path | None:
    """Tells jax to keep what it compiles. If the folder cannot be used, it prints a message and goes on without.

    Returns:
      The folder; ``None`` when jax's own settings decide, or nothing is kept.
    """
    import jax

    decided: str | None = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or decided is not None:
        return None
    try:
        folder = cache_folder()
        if folder is None:
            return None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / ".lockfile").touch(mode=0o600)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written")
        tidy(folder)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"what is compiled is not kept ({error}): set {VARIABLE} to another folder, or to 0", file=sys.stderr)
        return None
    for name, value in _SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # If the disk is full or a file is damaged, the program is compiled again.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    return folder


def cache_folder() -> pathlib.Path | None:
    """Returns the folder for this machine's processor; None if nothing is to be kept.

    XLA's code for one processor may use instructions that another lacks.

    Raises:
      RuntimeError: there is no home folder.
    """
    chosen = os.environ.get(VARIABLE, "").strip()
    if chosen.lower() in OFF:
        return None
    if chosen:
        base = pathlib.Path(chosen).expanduser()
    elif os.environ.get("XDG_CACHE_HOME"):
        base = pathlib.Path(os.environ["XDG_CACHE_HOME"]) / "lmjax"
    else:
        base = pathlib.Path.home() / ".cache" / "lmjax"
    return (base / f"compiled-{_processor()}").absolute()


def _processor() -> str:
    described = platform.machine()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        # These are the names that x86 and ARM use for their instruction sets.
        described += "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    return hashlib.sha256(described.encode()).hexdigest()[:8]


def tidy(folder: pathlib.Path) -> None:
    """Removes entries that a killed process left half-written, and the oldest ones beyond :data:`MOST_ENTRIES`.

    Jax writes an entry and then its time of use. Once it finds one without the other, it writes nothing more.
    """
    entries, now = [], time.time()
    for path in folder.glob("*-cache"):
        used = path.with_name(path.name.removesuffix("-cache") + "-atime")
        with contextlib.suppress(OSError):  # another process may be tidying too
            written = path.stat().st_mtime
            if used.exists():
                entries.append((used.stat().st_mtime, path, used))
            elif now - written > HALF_WRITTEN_SECONDS:
                path.unlink()
    for _, path, used in sorted(entries)[: max(len(entries) - MOST_ENTRIES, 0)]:
        for file in (path, used):
            file.unlink(missing_ok=True)
