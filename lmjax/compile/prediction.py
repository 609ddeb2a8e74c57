"""From a compiled step to figures: memory, step time, tokens a second, MFU; as one dictionary, for JSON too."""

import collections
import re
from typing import Any

import numpy as np

from lmjax.compile.compiled import Compiled
from lmjax.compile.hlo import Program, array_sizes, num_bytes
from lmjax.compile.parts import source_of
from lmjax.compile.pricing import Pricing, price
from lmjax.compile.step import CompiledStep
from lmjax.compile.topology import LINK_EFFICIENCY
from lmjax.compile.uses import uses

ASSUMED = (
    "computation: the compiler's own estimated_cycles of every fusion, at the chip's clock; on matrix products they "
    "come within 3 to 15% of the published peak",
    "instructions without an estimate: bytes read and written over the memory's bandwidth; copies between the chip's "
    "two memories run beside other work",
    f"collectives: ring algorithms over the torus links of a group at {LINK_EFFICIENCY:.0%} of their published "
    "bandwidth, without latency; one that does not block is hidden by the computation between its start and its end",
    "nothing for waiting for the slowest chip",
)
ASSUMED_OF_STEPS = (
    "attention: pairs of blocks of one unbroken document a row; rows of shorter documents take less",
    "nothing for the input pipeline, checkpoints or validation",
)


_NO_ARRAY = ("tuple", "get-tuple-element", "while", "bitcast", "constant", "call", "conditional")


def predict(step: CompiledStep) -> tuple[dict[str, Any], Pricing | None]:
    """Returns every figure of a step by name, and the estimate behind them (None where the step does not fit)."""
    figures, pricing = program_figures(step)
    if pricing is not None:
        figures["assumed"] += ASSUMED_OF_STEPS
    return _heading(step) | figures, pricing


def planned_figures(step: CompiledStep) -> dict[str, Any]:
    """Returns the figures of a step of :func:`lmjax.compile.memory_plan.plan_step`, which has no cycles."""
    return _heading(step) | space_figures(step) | {"planned": True}


def _heading(step: CompiledStep) -> dict[str, Any]:
    config = step.config
    return {
        "recipe": config.name,
        "objective": type(step.learner.objective).__name__,
        "topology": step.topology.name,
        "chips": step.mesh.size,
        "mesh": dict(step.mesh.shape),
        "batch_size": config.train.batch_size,
        "microbatches": config.train.microbatches,
        "remat": config.model.execution.remat,
        "sequence_length": config.train.sequence_length,
        "parameters": step.summary.parameters,
    }


def program_figures(compiled: Compiled) -> tuple[dict[str, Any], Pricing | None]:
    """Returns the figures of a program by name, and the estimate behind them (None where it does not fit)."""
    chip, work, mesh = compiled.topology.chip, compiled.work, dict(compiled.mesh.shape)
    devices = np.asarray(compiled.mesh.devices).ravel()
    figures = space_figures(compiled)
    if compiled.program is None:
        return figures, None
    pricing = price(
        compiled.program, topology=compiled.topology, mesh=mesh, devices=devices, visible_share=work.visible_share
    )
    tokens_of_chip = work.tokens / len(devices)
    rate = work.tokens / pricing.seconds
    figures |= {
        "seconds_per_step": pricing.seconds,
        "tokens_per_second": rate,
        "tokens_per_second_per_chip": rate / len(devices),
        "mfu": rate * work.flops_per_token / (len(devices) * chip.peak_flops),
        "visible_share": work.visible_share,
        "cycles_per_token": pricing.seconds * chip.clock / tokens_of_chip,
        "cycles_per_token_by_part": {part: n / tokens_of_chip for part, n in pricing.cycles_by_part.items()},
        "dearest": dearest(pricing, tokens_of_chip),
        "collectives": collective_rows(pricing),
        "host": {
            "bytes": sum(one.num_bytes for one in pricing.host),
            "seconds": sum(one.seconds for one in pricing.host),
            "exposed_seconds": sum(one.exposed for one in pricing.host),
        },
        "assumed": [*ASSUMED, *pricing.assumed],
    }
    return figures, pricing


def space_figures(compiled: Compiled) -> dict[str, Any]:
    """Returns the figures of a program that need no cycles: what it works on, whether it fits, and its memory."""
    hbm_bytes, memory = compiled.topology.chip.hbm_bytes, compiled.memory
    figures: dict[str, Any] = {
        "flops_per_token": round(compiled.work.flops_per_token),
        "tokens_per_step": compiled.work.tokens,
        "fits": compiled.fits,
        "involuntary_rematerialisation": list(compiled.involuntary),
    }
    if memory is None or compiled.program is None:
        return figures | {"refusal": compiled.refusal}
    figures["memory"] = {
        "arguments": memory.arguments,
        "temporaries": memory.temporaries,
        "other": memory.other,
        "held": memory.held,
        "peak": memory.peak,
        "hbm": hbm_bytes,
        "margin": hbm_bytes - memory.peak,
        "largest": largest_arrays(compiled.program),
    }
    return figures


def dearest(pricing: Pricing, tokens: float, *, number: int = 12) -> list[dict[str, Any]]:
    """Returns the lines of Python that cost most, all their instructions together.

    Args:
      pricing: of the step.
      tokens: that a chip works on in a step.
      number: how many lines.
    """
    cycles: collections.Counter[tuple[str, str, str]] = collections.Counter()
    calls: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for cost in pricing.costs:
        key = (cost.part, cost.source or "the compiler's own", _direction(cost.op_name))
        cycles[key] += cost.cycles  # type: ignore[assignment]
        calls[key] += cost.times
    return [
        {"part": part, "source": source, "pass": way, "times": calls[part, source, way], "cycles_per_token": n / tokens}
        for (part, source, way), n in cycles.most_common(number)
    ]


def _direction(op_name: str) -> str:
    """Returns the pass an operation belongs to, by what jax writes into its name."""
    if "rematted_computation" in op_name:
        return "recomputed"
    return "backward" if "transpose(" in op_name else "forward" if "jvp(" in op_name else ""


def collective_rows(pricing: Pricing) -> list[dict[str, Any]]:
    """Returns the collectives, those of one kind, size, place and line together, the longest first."""
    rows: dict[tuple, dict[str, Any]] = {}
    for cost in pricing.collectives:
        one = cost.collective
        key = (one.kind, one.axes, one.num_bytes, cost.source, one.blocks)
        row = rows.setdefault(
            key,
            {
                "kind": one.kind,
                "axes": list(one.axes),
                "devices": len(one.groups[0]),
                "bytes": one.num_bytes,
                "times": 0,
                "seconds": 0.0,
                "exposed_seconds": 0.0,
                "blocks": one.blocks,
                "part": cost.part,
                "source": cost.source,
            },
        )
        row["times"] += one.times
        row["seconds"] += cost.seconds
        row["exposed_seconds"] += cost.exposed
    return sorted(rows.values(), key=lambda row: -row["seconds"])


def largest_arrays(program: Program, *, number: int = 8) -> list[dict[str, Any]]:
    """Returns the largest arrays in the chip's main memory; two that do not live at once may share their place."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for use in uses(program):
        one = use.instruction
        is_argument = one.opcode == "parameter" and use.computation == program.entry
        if one.opcode in _NO_ARRAY or one.opcode.endswith(("-start", "-done")):
            continue
        if one.opcode == "parameter" and not is_argument:
            continue
        for shape in re.findall(r"\w+\[[\d,]+\](?:\{[^}]*\})?", one.shape):
            if "S(" in shape:
                continue  # in fast memory
            kind, sizes = array_sizes(shape)[0]
            name = one.op_name if is_argument else source_of(program.stack(one.frame)) or one.name
            written = f"{kind}[{','.join(map(str, sizes))}]"
            row = {"bytes": num_bytes(shape), "shape": written, "name": name.replace("\\'", "'")}
            found.setdefault((written, name), row)
    return sorted(found.values(), key=lambda row: -row["bytes"])[:number]
