"""From a compiled step to figures: memory, step time, tokens a second, MFU; as one dictionary, for JSON too."""

import collections
import re
from typing import Any

import numpy as np

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
    "attention: pairs of blocks of one unbroken document a row; rows of shorter documents take less",
    "nothing for the input pipeline, checkpoints, validation, or waiting for the slowest chip",
)


_NO_ARRAY = ("tuple", "get-tuple-element", "while", "bitcast", "constant", "call", "conditional")


def predict(step: CompiledStep) -> tuple[dict[str, Any], Pricing | None]:
    """Returns every figure of a step by name, and the estimate behind them (None where the step does not fit)."""
    chip, config = step.topology.chip, step.config
    devices = np.asarray(step.learner.mesh.devices).ravel()
    mesh = dict(step.learner.mesh.shape)
    figures: dict[str, Any] = {
        "recipe": config.name,
        "topology": step.topology.name,
        "chips": len(devices),
        "mesh": mesh,
        "batch_size": config.train.batch_size,
        "microbatches": config.train.microbatches,
        "remat": config.model.execution.remat,
        "sequence_length": config.train.sequence_length,
        "parameters": step.summary.parameters,
        "flops_per_token": step.summary.flops_per_token,
        "tokens_per_step": step.tokens,
        "fits": step.memory is not None and step.memory.peak <= chip.hbm_bytes,
        "involuntary_rematerialisation": list(step.involuntary),
    }
    if step.memory is None or step.program is None:
        return figures | {"refusal": step.refusal}, None
    figures["memory"] = {
        "arguments": step.memory.arguments,
        "temporaries": step.memory.temporaries,
        "other": step.memory.other,
        "peak": step.memory.peak,
        "hbm": chip.hbm_bytes,
        "margin": chip.hbm_bytes - step.memory.peak,
        "largest": largest_arrays(step.program),
    }
    pricing = price(step.program, topology=step.topology, mesh=mesh, devices=devices, visible_share=step.visible_share)
    tokens_of_chip = step.tokens / len(devices)
    rate = step.tokens / pricing.seconds
    figures |= {
        "seconds_per_step": pricing.seconds,
        "tokens_per_second": rate,
        "tokens_per_second_per_chip": rate / len(devices),
        "mfu": rate * step.summary.flops_per_token / (len(devices) * chip.peak_flops),
        "visible_share": step.visible_share,
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
                "devices": len(one.group),
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
