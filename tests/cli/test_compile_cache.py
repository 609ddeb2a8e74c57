"""What is compiled is kept between starts, where the user says, and never in a command's way."""

import os
import pathlib
import subprocess
import sys
import time

import jax
import pytest

from lmjax.cli import compile_cache
from lmjax.cli.compile_cache import cache_folder, tidy, use_compile_cache

SCRIPT = """
import collections, sys
import jax
from jax import monitoring
events = collections.Counter()
monitoring.register_event_listener(lambda name, **_: events.update([name.rpartition("/")[2]]))
from lmjax.cli.compile_cache import use_compile_cache
use_compile_cache()
print(jax.jit(lambda x: x * 2 + 1)(3.0), events["cache_hits"], events["cache_misses"])
"""


def start(**environment):
    """Runs the script in a process of its own; its three numbers, and what it says on stderr."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=own | {"JAX_PLATFORMS": "cpu"} | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    value, hits, misses = done.stdout.split()
    assert value == "7.0"
    return int(hits), int(misses), done.stderr


@pytest.mark.processes
def test_a_second_start_compiles_nothing(tmp_path):
    hits, misses, _ = start(XDG_CACHE_HOME=str(tmp_path))
    assert hits == 0 and misses > 0
    (folder,) = (tmp_path / "lmjax").glob("compiled-*")
    assert folder.stat().st_mode & 0o077 == 0
    for entry in folder.glob("*-cache"):
        assert entry.with_name(entry.name.replace("-cache", "-atime")).exists()
    assert start(XDG_CACHE_HOME=str(tmp_path))[:2] == (misses, 0)
    for entry in folder.glob("*-cache"):
        entry.write_bytes(b"damaged")
    hits, misses, said = start(XDG_CACHE_HOME=str(tmp_path))
    assert hits == 0 and "Traceback" not in said and "persistent" not in said


@pytest.mark.processes
def test_a_folder_that_cannot_be_used_is_said_and_stops_nothing(tmp_path):
    (tmp_path / "file").touch()
    hits, misses, said = start(LMJAX_CACHE=str(tmp_path / "file"))
    assert hits == misses == 0
    assert said.count("what is compiled is not kept") == 1 and "set LMJAX_CACHE to another folder, or to 0" in said


@pytest.fixture
def no_folder_yet(monkeypatch):
    """The settings of jax as a command finds them, put back afterwards."""
    names = ("jax_compilation_cache_dir", *compile_cache._SETTINGS)
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    for variable in ("JAX_COMPILATION_CACHE_DIR", "LMJAX_CACHE", *map(str.upper, compile_cache._SETTINGS)):
        monkeypatch.delenv(variable, raising=False)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_who_decides_where(tmp_path, monkeypatch, no_folder_yet):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder().parent == tmp_path / "home" / ".cache" / "lmjax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder().parent == tmp_path / "xdg" / "lmjax"
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "own"))
    assert cache_folder().parent == tmp_path / "own"
    for off in ("0", "off", "OFF", "none"):
        monkeypatch.setenv("LMJAX_CACHE", off)
        assert use_compile_cache() is None and jax.config.jax_compilation_cache_dir is None
    monkeypatch.setenv("LMJAX_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "1000")
    assert use_compile_cache() == cache_folder() == pathlib.Path(jax.config.jax_compilation_cache_dir)
    assert jax.config.jax_compilation_cache_max_size != compile_cache.MOST_BYTES
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    assert use_compile_cache() is None and jax.config.jax_compilation_cache_dir == str(tmp_path / "jax")


def test_half_written_entries_and_the_oldest_go(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, "MOST_ENTRIES", 2)
    now = time.time()
    for number in range(4):
        for kind in ("cache", "atime"):
            path = tmp_path / f"f{number}-{kind}"
            path.touch()
            os.utime(path, (now - number, now - number))
    for name, age in (("old", 10_000), ("new", 1)):
        (tmp_path / f"{name}-cache").touch()
        os.utime(tmp_path / f"{name}-cache", (now - age, now - age))
    tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"f0-cache", "f0-atime", "f1-cache", "f1-atime", "new-cache"}
