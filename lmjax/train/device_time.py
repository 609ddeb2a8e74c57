"""How long the devices of this process worked, read from the trace that jax's profiler has written."""

import pathlib
from collections.abc import Iterable

import jax

NOT_WORK = ("Steps", "Launch Stats", "Source code", "Framework Name Scope", "Framework Ops")
"""Lines of a device's plane that span or repeat the operations of the others."""
CPU_THREADS = "tf_XLAPjRtCpuClient"
"""Begins the names of the host's threads that run the programs of a CPU."""
CPU_MARKS = ("ThreadpoolListener", "end:")
"""Begin the names of their events that are no operations."""

Span = tuple[float, float]


def busy_seconds(folder: pathlib.Path) -> float | None:
    """Returns the seconds in which a device of this process worked, on average over the devices.

    On a CPU, all of its devices share the processor and count as one.

    Args:
      folder: what ``jax.profiler.start_trace`` was given; the newest trace in it is read.

    Returns:
      None if there is no trace, or if it does not show the work of the devices.
    """
    traces = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not traces:
        return None
    on_devices: list[float] = []
    on_cpu: list[Span] = []
    for plane in jax.profiler.ProfileData.from_file(str(traces[-1])).planes:
        if plane.name.startswith("/device:") and "CUSTOM" not in plane.name:
            lines = [line for line in plane.lines if line.name not in NOT_WORK]
            seconds = covered((event.start_ns, event.end_ns) for line in lines for event in line.events) / 1e9
            on_devices += [seconds] if seconds else []
        elif plane.name == "/host:CPU":
            lines = [line for line in plane.lines if line.name.startswith(CPU_THREADS)]
            events = (event for line in lines for event in line.events if not event.name.startswith(CPU_MARKS))
            on_cpu += [(event.start_ns, event.end_ns) for event in events]
    if on_devices:
        return sum(on_devices) / len(on_devices)
    return covered(on_cpu) / 1e9 if on_cpu else None


def covered(spans: Iterable[Span]) -> float:
    """Returns the length of the union of spans ``(begin, end)``."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return total
