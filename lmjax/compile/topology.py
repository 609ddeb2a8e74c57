"""TPUs that are not here: their names, what a chip of each kind can do, and libtpu's word on how they are joined."""

import atexit
import dataclasses
import importlib.util
import math
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import jax

ENVIRONMENT = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",
    # No device is opened, so that compilers do not shut each other out.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""What libtpu wants to know before it compiles without a TPU; values that are set already stay."""

LINK_EFFICIENCY = 0.9
"""Share of a link's published bandwidth that a collective reaches; assumed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """What one jax device of a kind can do; from Google's data sheets but where it is said otherwise.

    Attributes:
      peak_flops: a second, in bfloat16.
      clock: cycles a second of the compiler's estimates. For v5e, v5p and v6e it was checked on matrix products,
        whose estimates come within 3 to 15% of the peak; for the others the peak over the same products' FLOPs
        a cycle.
      hbm_bytes: what a program may use, as libtpu reports it.
      hbm_bandwidth: bytes a second.
      link_bandwidth: bytes a second, over one link between neighbours, in one direction.
      wraps_at: size from which on an axis of the torus is closed to a ring (a multiple of it, on chips in cubes).
    """

    peak_flops: float
    clock: float
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    wraps_at: int

    def wraps(self, size: int) -> bool:
        """Whether an axis of this many chips is a ring."""
        return size == self.wraps_at if self.wraps_at == 16 else size % self.wraps_at == 0


GIB = 2**30
CHIPS = {
    "v4": Chip(
        peak_flops=275e12,
        clock=1.05e9,
        hbm_bytes=int(30.5 * GIB),
        hbm_bandwidth=1.2e12,
        link_bandwidth=50e9,
        wraps_at=4,
    ),
    "v5e": Chip(
        peak_flops=197e12,
        clock=1.5e9,
        hbm_bytes=int(15.75 * GIB),
        hbm_bandwidth=0.82e12,
        link_bandwidth=50e9,
        wraps_at=16,
    ),
    "v5p": Chip(
        peak_flops=459e12,
        clock=1.75e9,
        hbm_bytes=int(95.74 * GIB),
        hbm_bandwidth=2.77e12,
        link_bandwidth=100e9,
        wraps_at=4,
    ),
    "v6e": Chip(
        peak_flops=918e12,
        clock=1.75e9,
        hbm_bytes=int(31.25 * GIB),
        hbm_bandwidth=1.64e12,
        link_bandwidth=100e9,
        wraps_at=16,
    ),
}
KINDS_TEXT = "v4:4x4x4, v5e:8x8, v5p:4x4x8, v6e:16x16"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """Chips and how they are joined.

    Attributes:
      name: such as ``v5e:8x8``, followed by ``x 2 slices`` where there are several.
      chip: what each can do.
      extents: chips along each axis of a slice.
      num_slices: slices of them.
      devices: jax devices that can be compiled for, and nothing else.
    """

    name: str
    chip: Chip
    extents: tuple[int, ...]
    num_slices: int = 1
    devices: Sequence[Any]


def prepare_environment() -> str:
    """Makes libtpu compile without a TPU, and jax compute on the CPU; call before anything computes.

    Returns:
      The folder libtpu writes its log to, where its warnings are found afterwards.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "TPU_LOG_DIR" not in os.environ:
        os.environ["TPU_LOG_DIR"] = tempfile.mkdtemp(prefix="lmjax-libtpu-")
        atexit.register(shutil.rmtree, os.environ["TPU_LOG_DIR"], ignore_errors=True)
    jax.config.update("jax_platforms", "cpu")
    # Compiling is what is asked for, and a program that was kept has lost the compiler's warnings.
    jax.config.update("jax_enable_compilation_cache", False)
    return os.environ["TPU_LOG_DIR"]


def open_topology(name: str, *, slices: int = 1) -> Topology:
    """Returns the chips of a name such as ``v5e:8x8`` or ``v5p:4x4x8``.

    Raises:
      ValueError: libtpu is not installed, the kind is unknown, or there is no such arrangement of it.
    """
    kind, extents = _parse(name)
    if slices < 1:
        raise ValueError(f"--slices {slices}: must be at least 1")
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise ValueError("libtpu, which compiles for TPUs and needs none, is not installed: pip install 'lmjax[tpu]'")
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # the two cores of a chip as one device, as jax has them on v4
    if math.prod(extents) < 4:
        options["chips_per_host_bounds"] = (*extents, 1, 1)[:3]
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except (RuntimeError, jax.errors.JaxRuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--topology {name}: libtpu knows no such chips ({reason}); known: {KINDS_TEXT}") from None
    shown = name if slices == 1 else f"{name} x {slices} slices"
    return Topology(name=shown, chip=CHIPS[kind], extents=extents, num_slices=slices, devices=devices)


def _parse(name: str) -> tuple[str, tuple[int, ...]]:
    kind, _, sizes = name.partition(":")
    if kind not in CHIPS:
        raise ValueError(f"--topology {name}: unknown kind {kind!r}; known, with examples of their sizes: {KINDS_TEXT}")
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", sizes):
        raise ValueError(f"--topology {name}: write the chips along each axis, as in {KINDS_TEXT}")
    return kind, tuple(int(size) for size in sizes.split("x"))
