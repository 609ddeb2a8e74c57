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
        f"{figures['recipe']} on {figures['topology']} ({figures['chips']} devices), {figures['objective']}: {mesh}, "
        f"{figures['batch_size']} rows of {figures['sequence_length']} in {figures['microbatches']} microbatches, "
        f"remat {figures['remat']}; {figures['parameters']:,} parameters, {figures['flops_per_token']:,} FLOPs a token"
    )
    yield from program_tables(figures, of="the step")
    if "planned" in figures:
        yield (
            "planned, not compiled: without times and the program itself; code generation adds to the temporaries (of "
            "a 7B shape on 256 chips 13.6 GiB were planned, and 15.5 reported by the whole compile)"
        )
    if "seconds_per_step" not in figures:
        return
    yield (
        f"predicted: {figures['seconds_per_step']:.4g} s a step, {figures['tokens_per_second']:,.0f} tokens a second "
        f"({figures['tokens_per_second_per_chip']:,.0f} a device), MFU {figures['mfu']:.1%}"
    )
    yield _assumed(figures)


def program_tables(figures: Mapping[str, Any], *, of: str) -> Iterator[Table | str]:
    """Returns the tables of one program.

    Args:
      figures: of :func:`lmjax.compile.prediction.program_figures`.
      of: what the program is, for the titles.
    """
    for one in figures["involuntary_rematerialisation"]:
        yield f"gathered whole, for its two layouts do not go together: {one}"
    if "memory" not in figures:
        yield f"does not fit: {figures['refusal']}"
        return
    yield _memory(figures["memory"], fits=figures["fits"])
    if "collectives" not in figures:
        return
    yield _collectives(figures["collectives"], figures["seconds_per_step"], of)
    host = figures["host"]
    if host["bytes"]:
        yield (
            f"copies to the host's memory and from there: {host['bytes'] / GIB:,.1f} GiB, "
            f"{host['seconds']:.3g} s, of which {host['exposed_seconds']:.3g} s are not hidden\n"
        )
    yield _parts(figures, of)
    yield _dearest(figures["dearest"], figures["cycles_per_token"])


def decoding_tables(figures: Mapping[str, Any]) -> Iterator[Table | str]:
    """Returns what there is to print of the figures of :func:`lmjax.compile.roofline.predict_decoding`, in order."""
    mesh = _mesh(figures["mesh"]) or "one chip"
    yield (
        f"{figures['recipe']} on {figures['topology']} ({figures['chips']} devices): {mesh}, "
        f"{figures['batch_size']} prompts of {figures['prompt_length']} tokens, up to {figures['max_new_tokens']} new "
        f"ones, caches of {figures['cache_length']}; {figures['parameters']:,} parameters"
    )
    prefill = figures["prefill"]
    yield f"prefill: {prefill['flops_per_token']:,} FLOPs a token"
    yield from program_tables(prefill, of="prefill")
    if "seconds_per_step" in prefill:
        yield (
            f"predicted: {1e3 * prefill['seconds_per_step']:.4g} ms for all prompts, "
            f"{prefill['tokens_per_second']:,.0f} tokens a second, MFU {prefill['mfu']:.1%}\n"
        )
    if "decode" not in figures:
        yield "decoding was not compiled, for prefill does not fit"
        return
    decode = figures["decode"]
    yield f"decoding: {decode['flops_per_token']:,} FLOPs a token"
    yield from program_tables(decode, of="decoding")
    if "seconds_per_token" in decode:
        yield _bounds(decode)
        yield (
            f"predicted: {1e3 * decode['seconds_per_token']:.4g} ms a token, {decode['tokens_per_second']:,.0f} tokens "
            f"a second ({decode['tokens_per_second_per_row']:,.1f} a row, {decode['tokens_per_second_per_chip']:,.0f} "
            f"a device), bound by {decode['bound']}; MFU {decode['mfu']:.1%}"
        )
    yield _assumed(figures)


def _bounds(decode: Mapping[str, Any]) -> Table:
    rows = _table("a token of each row takes at least", "ms", "MiB of a chip")
    sizes = {"reading the weights": decode["reads"]["weights"], "reading the caches": decode["reads"]["cache"]}
    for name, seconds in decode["seconds_by_bound"].items():
        rows.add_row(name, f"{1e3 * seconds:.4g}", f"{sizes[name] / 2**20:,.1f}" if name in sizes else "")
    rows.add_section()
    rows.add_row("cycles of the compiler", f"{1e3 * decode['computing_seconds_per_token']:.4g}", "")
    return rows


def _assumed(figures: Mapping[str, Any]) -> str:
    return "assumed:\n" + "\n".join(f"  - {line}" for line in figures["assumed"])


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
    for name in ("arguments", "temporaries", "other", "held", "peak", "hbm"):
        if name != "held" or memory[name]:
            rows.add_row("beside the program" if name == "held" else name, f"{memory[name] / GIB:.3f}")
    rows.add_row("fits, with" if fits else "does not fit", f"{memory['margin'] / GIB:.3f}", "to spare" if fits else "")
    rows.add_section()
    for row in memory["largest"]:
        rows.add_row("large: " + row["shape"], f"{row['bytes'] / GIB:.3f}", row["name"])
    return rows


def _collectives(collectives: Sequence[Mapping[str, Any]], step_seconds: float, of: str) -> Table:
    rows = _table(f"collectives of {of}", "axes", "MiB", "times", "ms", "not hidden", "where")
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
    rows.add_row(f"share of {of}", "", "", "", f"{seconds / step_seconds:.1%}", f"{exposed / step_seconds:.1%}")
    return rows


def _parts(figures: Mapping[str, Any], of: str) -> Table:
    rows = _table(f"part of {of}", "cycles a token", "share")
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
    _add_cycles(rows, "cycles a token", figures)
    return rows


def decoding_comparison(figures: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """Returns one column for each decoding.

    Args:
      figures: of each.
      names: of each.
    """
    prefills, decodes = ([one.get(part, {}) for one in figures] for part in ("prefill", "decode"))
    rows = _table("", *names)
    rows.add_row("fits", *("yes" if one["fits"] else "no" for one in figures))
    for title, programs in (("prefill", prefills), ("decoding", decodes)):
        peaks = (f"{one['memory']['peak'] / GIB:.2f}" if "memory" in one else "" for one in programs)
        rows.add_row(f"{title}: peak GiB", *peaks)
    rows.add_row("prefill: s for all prompts", *(_of(one, "seconds_per_step", ".4g") for one in prefills))
    rows.add_row("prefill: tokens a second", *(_of(one, "tokens_per_second", ",.0f") for one in prefills))
    rows.add_row("decoding: s a token", *(_of(one, "seconds_per_token", ".4g") for one in decodes))
    rows.add_row("decoding: tokens a second", *(_of(one, "tokens_per_second", ",.0f") for one in decodes))
    rows.add_row(
        "decoding: tokens a second and row", *(_of(one, "tokens_per_second_per_row", ",.1f") for one in decodes)
    )
    rows.add_row("decoding: bound by", *(one.get("bound", "") for one in decodes))
    for title, programs in (("prefill", prefills), ("decoding", decodes)):
        rows.add_section()
        _add_cycles(rows, f"{title}: cycles a token", programs)
    return rows


def _add_cycles(rows: Table, title: str, figures: Sequence[Mapping[str, Any]]) -> None:
    rows.add_row(title, *(_of(one, "cycles_per_token", ",.0f") for one in figures))
    parts = dict.fromkeys(part for one in figures for part in one.get("cycles_per_token_by_part", {}))
    for part in parts:
        found = (one.get("cycles_per_token_by_part", {}).get(part) for one in figures)
        rows.add_row(f"  {part}", *("" if cycles is None else f"{cycles:,.0f}" for cycles in found))


def _of(figures: Mapping[str, Any], name: str, form: str) -> str:
    return format(figures[name], form) if name in figures else ""
