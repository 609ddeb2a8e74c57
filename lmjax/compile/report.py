"""The figures of a compiled step as tables for people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from lmjax.compile.topology import GIB

MEANINGFUL_SECONDS = 1e-6


def tables(figures: Mapping[str, Any]) -> Iterator[Table | str]:
    """Returns what there is to print of the figures of :func:`lmjax.compile.prediction.predict`, in order."""
    mesh = _mesh(figures["mesh"]) or "one chip"
    yield (
        f"{figures['recipe']} on {figures['topology']} ({figures['chips']} devices): {mesh}, "
        f"{figures['batch_size']} rows of {figures['sequence_length']} in {figures['microbatches']} microbatches, "
        f"remat {figures['remat']}; {figures['parameters']:,} parameters, {figures['flops_per_token']:,} FLOPs a token"
    )
    for one in figures["involuntary_rematerialisation"]:
        yield f"gathered whole, for its two layouts do not go together: {one}"
    if "memory" not in figures:
        yield f"does not fit: {figures['refusal']}"
        return
    yield _memory(figures["memory"], fits=figures["fits"])
    yield _collectives(figures["collectives"], figures["seconds_per_step"])
    host = figures["host"]
    if host["bytes"]:
        yield (
            f"copies to the host's memory and from there: {host['bytes'] / GIB:,.1f} GiB a step, "
            f"{host['seconds']:.3g} s, of which {host['exposed_seconds']:.3g} s are not hidden\n"
        )
    yield _parts(figures)
    yield _dearest(figures["dearest"], figures["cycles_per_token"])
    yield (
        f"predicted: {figures['seconds_per_step']:.4g} s a step, {figures['tokens_per_second']:,.0f} tokens a second "
        f"({figures['tokens_per_second_per_chip']:,.0f} a device), MFU {figures['mfu']:.1%}"
    )
    yield "assumed:\n" + "\n".join(f"  - {line}" for line in figures["assumed"])


def gpu_tables(figures: Mapping[str, Any]) -> Iterator[Table | str]:
    """Returns what there is to print of the figures of :func:`lmjax.compile.gpu.estimate`, in order."""
    mesh = _mesh(figures["mesh"]) or "one GPU"
    yield (
        f"{figures['recipe']} on {figures['device']}: {mesh}, {figures['batch_size']} rows of "
        f"{figures['sequence_length']} in {figures['microbatches']} microbatches, remat {figures['remat']}; "
        f"{figures['parameters']:,} parameters, {figures['flops_per_token']:,} FLOPs a token"
    )
    rows = _table("memory of a device, estimated", "GB")
    for name, size in figures["memory"].items():
        rows.add_row(name, f"{size / 1e9:.2f}")
    rows.add_row("fits" if figures["fits"] else "does not fit", "")
    yield rows
    (best, worst), (high, low) = figures["seconds_per_step"], figures["mfu"]
    yield (
        f"estimated: {best:.4g} to {worst:.4g} s a step ({figures['computing_seconds']:.4g} of computation, "
        f"{figures['exchanging_seconds']:.4g} of exchange), MFU {low:.0%} to {high:.0%}"
    )
    yield "how:\n" + "\n".join(f"  - {line}" for line in figures["assumed"])


def _mesh(sizes: Mapping[str, int]) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1)


def _table(title: str, *columns: str) -> Table:
    rows = Table(title, box=box.SIMPLE_HEAD, pad_edge=False)
    rows.columns[0].no_wrap = True
    for name in columns:
        rows.add_column(name, justify="left" if name in ("array", "axes", "pass", "where", "of") else "right")
    return rows


def _memory(memory: Mapping[str, Any], *, fits: bool) -> Table:
    rows = _table("memory of a device", "GiB", "array")
    for name in ("arguments", "temporaries", "other", "peak", "hbm"):
        rows.add_row(name, f"{memory[name] / GIB:.3f}")
    rows.add_row("fits, with" if fits else "does not fit", f"{memory['margin'] / GIB:.3f}", "to spare" if fits else "")
    rows.add_section()
    for row in memory["largest"]:
        rows.add_row("large: " + row["shape"], f"{row['bytes'] / GIB:.3f}", row["name"])
    return rows


def _collectives(collectives: Sequence[Mapping[str, Any]], step_seconds: float) -> Table:
    rows = _table("collectives of a step", "axes", "MiB", "times", "ms", "not hidden", "where")
    for row in [row for row in collectives if row["seconds"] > MEANINGFUL_SECONDS][:20]:
        rows.add_row(
            row["kind"] + (" (blocks)" if row["blocks"] else ""),
            "x".join(row["axes"]),
            f"{row['bytes'] / 2**20:,.2f}",
            f"{row['times']:,}",
            f"{1e3 * row['seconds']:,.2f}",
            f"{1e3 * row['exposed_seconds']:,.2f}",
            row["source"],
        )
    seconds = sum(row["seconds"] for row in collectives)
    exposed = sum(row["exposed_seconds"] for row in collectives)
    times = f"{sum(row['times'] for row in collectives):,}"
    rows.add_section()
    rows.add_row(f"all {len(collectives)}", "", "", times, f"{1e3 * seconds:,.2f}", f"{1e3 * exposed:,.2f}")
    rows.add_row("share of the step", "", "", "", f"{seconds / step_seconds:.1%}", f"{exposed / step_seconds:.1%}")
    return rows


def _parts(figures: Mapping[str, Any]) -> Table:
    rows = _table("part of the step", "cycles a token", "share")
    total = figures["cycles_per_token"]
    for part, cycles in figures["cycles_per_token_by_part"].items():
        rows.add_row(part, f"{cycles:,.1f}", f"{cycles / total:.1%}")
    rows.add_section()
    rows.add_row("all", f"{total:,.1f}", "100%")
    return rows


def _dearest(dearest: Sequence[Mapping[str, Any]], total: float) -> Table:
    rows = _table("dearest lines", "cycles a token", "share", "times", "pass", "of")
    for row in dearest:
        cycles = row["cycles_per_token"]
        rows.add_row(
            row["source"], f"{cycles:,.1f}", f"{cycles / total:.1%}", f"{row['times']:,}", row["pass"], row["part"]
        )
    return rows


def comparison(figures: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """Returns one column for each step.

    Args:
      figures: of each.
      names: of each.
    """
    rows = _table("", *names)
    rows.add_row("fits", *("yes" if one["fits"] else "no" for one in figures))
    rows.add_row("MFU", *(_of(one, "mfu", ".1%") for one in figures))
    rows.add_row("s a step", *(_of(one, "seconds_per_step", ".4g") for one in figures))
    rows.add_row("tokens a second a device", *(_of(one, "tokens_per_second_per_chip", ",.0f") for one in figures))
    rows.add_row("peak GiB", *(f"{one['memory']['peak'] / GIB:.2f}" if "memory" in one else "" for one in figures))
    rows.add_section()
    rows.add_row("cycles a token", *(_of(one, "cycles_per_token", ",.0f") for one in figures))
    parts = dict.fromkeys(part for one in figures for part in one.get("cycles_per_token_by_part", {}))
    for part in parts:
        found = (one.get("cycles_per_token_by_part", {}).get(part) for one in figures)
        rows.add_row(f"  {part}", *("" if cycles is None else f"{cycles:,.0f}" for cycles in found))
    return rows


def _of(figures: Mapping[str, Any], name: str, form: str) -> str:
    return format(figures[name], form) if name in figures else ""
