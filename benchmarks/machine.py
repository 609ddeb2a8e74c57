"""What a benchmark ran on: every figure is printed beside it."""

import os
import pathlib
import platform

INSTRUCTION_SETS = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "sve", "bf16")
"""Those that decide the speed of matrix products, by the names of Linux."""


def described() -> str:
    """Returns the processor, its instruction sets, the cores, and the load of the last minute, in one line."""
    lines = {}
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            lines.setdefault(name.strip(), value.strip())
    model = lines.get("model name") or platform.processor() or platform.machine()
    flags = (lines.get("flags") or lines.get("Features") or "").split()
    sets = " ".join(name for name in INSTRUCTION_SETS if name in flags)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return f"{model} ({sets or platform.machine()}), {os.cpu_count()} cores, load of the last minute {load}"
