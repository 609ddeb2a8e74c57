"""Settings every test runs under: eight CPU devices, no silent broadcasting, a shared compile cache."""

import gc
import os
import pathlib

import jax
import pytest

jax.config.update("jax_platforms", os.environ.get("LMJAX_TEST_PLATFORM", "cpu"))
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling is what tests cost, and what is compiled runs for milliseconds. The processes that tests start do the same.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# XLA's older code for fusions on CPUs compiles three times as fast. Flags of the caller come later and win.
os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {os.environ.get('XLA_FLAGS', '')}"
# The second run of the suite on a machine spends a third of the first one's time.
cache = pathlib.Path(os.environ.get("LMJAX_TEST_CACHE", pathlib.Path.home() / ".cache" / "lmjax-tests"))
jax.config.update("jax_compilation_cache_dir", str(cache.absolute()))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> pathlib.Path:
    """The folder of reference data."""
    return GOLDEN


MANY_MAPS = 20_000
"""Memory maps of this process above which compiled programs are dropped; Linux allows 65,530."""


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Drops compiled programs between two files of tests once there are many.

    Each program holds some memory maps, and a process that has no more of them is aborted. What is needed again comes
    from the compile cache.
    """
    maps = pathlib.Path("/proc/self/maps")
    if nextitem is None or nextitem.path == item.path or not maps.exists():
        return
    if maps.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()
