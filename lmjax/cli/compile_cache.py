"""What jax has compiled, kept for the next start: a second start of the same run or prompt compiles nothing.

By default the folder is ``~/.cache/lmjax`` (``$XDG_CACHE_HOME/lmjax``). ``LMJAX_CACHE`` names another, or with ``0``
or ``off`` none; whoever has set jax's own ``JAX_COMPILATION_CACHE_DIR`` keeps that, with all of jax's settings. The
keys of the entries are jax's: its version, the program, the compiler's options and the devices are in them.
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
"""jax removes what was used longest ago beyond this."""
MOST_ENTRIES = 1000
"""Beyond this the start does: with every new entry jax looks at all of them."""
HALF_WRITTEN_SECONDS = 600
"""Age from which on an entry without its time of use is what a killed process left, and not another's at work."""

_SETTINGS = {
    "jax_compilation_cache_max_size": MOST_BYTES,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def use_compile_cache() -> pathlib.Path | None:
    """Tells jax to keep what it compiles; a folder that cannot be used is said once and is no reason to stop.

    Returns:
      The folder, ``None`` when jax's own settings decide or nothing is kept.
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
    # A full disk, a file that was damaged: then it is compiled anew.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    return folder


def cache_folder() -> pathlib.Path | None:
    """The folder for this machine's processor, for XLA's code for one may use instructions that another lacks.

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
        # x86 and ARM name their instruction sets so.
        described += "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    return hashlib.sha256(described.encode()).hexdigest()[:8]


def tidy(folder: pathlib.Path) -> None:
    """Removes entries a killed process left half-written, and the oldest beyond :data:`MOST_ENTRIES`.

    jax writes an entry and then its time of use, and writes nothing more once it finds one without the other.
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
