"""The time of a program on one chip, instruction by instruction, and what of it lies beside collectives."""

import collections
import dataclasses
from typing import Literal

import numpy as np

from lmjax.compile import kernels
from lmjax.compile.collectives import KINDS, Collective, find_collectives, seconds
from lmjax.compile.hlo import Frame, Instruction, Program, array_sizes, num_bytes
from lmjax.compile.parts import part_of, source_of
from lmjax.compile.topology import Topology
from lmjax.compile.uses import trip_count, uses

Basis = Literal["compiler", "kernel", "bytes"]

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "async-start",
    "async-done", "async-update", "after-all", "partition-id", "replica-id", "optimization-barrier", "domain",
    "copy-start", "copy-done", "slice-start", "slice-done", "dynamic-slice-start", "dynamic-slice-done",
    "dynamic-update-slice-start", "dynamic-update-slice-done", "send", "recv",
    "send-done", "recv-done", "iota", "add-dependency", "get-dimension-size",
}  # fmt: skip
"""What moves nothing, or moves it beside other work (copies between the chip's two memories)."""


_HANDS_ON = {"parameter", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "async-start"}
"""What passes arrays on, or stands for the instructions that work on them."""

HOST_SPACE = "S(5)"
"""In the layout of an array, that it is in the memory of the host."""
HOST_BANDWIDTH = 15e9
"""Bytes a second between a chip and its host, each way; assumed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What one instruction takes in a step.

    Attributes:
      name: of the instruction.
      part: of the training step, one of :data:`lmjax.compile.parts.PARTS`.
      source: the line of Python it came from.
      op_name: what jax called it.
      times: how often it runs.
      cycles: of all times.
      basis: whose estimate it is: the compiler's, a kernel's efficiency, or bytes over the memory's bandwidth.
      flops: of a kernel, all times, else None.
    """

    name: str
    part: str
    source: str
    op_name: str
    times: int
    cycles: float
    basis: Basis
    flops: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectiveCost:
    """What a collective takes in a step.

    Attributes:
      collective: which.
      source: the line of Python.
      part: the part of the step whose data it moves.
      seconds: of all times.
      exposed: of these, what nothing else runs beside.
    """

    collective: Collective
    source: str
    part: str
    seconds: float
    exposed: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostCost:
    """What copies to the host's memory and from there take in a step, those of one computation together.

    Attributes:
      num_bytes: of all times.
      seconds: of all times.
      exposed: of these, what the instructions of the computation do not run beside.
    """

    num_bytes: int
    seconds: float
    exposed: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pricing:
    """The estimate of a program.

    Attributes:
      costs: by instruction, the dearest first.
      collectives: the longest first.
      host: copies to the memory of the host and from there.
      assumed: what the estimate takes for granted, a sentence each.
      clock: cycles a second.
    """

    costs: tuple[Cost, ...]
    collectives: tuple[CollectiveCost, ...]
    host: tuple[HostCost, ...]
    assumed: tuple[str, ...]
    clock: float

    @property
    def seconds(self) -> float:
        """Of a whole step."""
        collectives, host = sum(one.exposed for one in self.collectives), sum(one.exposed for one in self.host)
        return self.computing + collectives + host

    @property
    def computing(self) -> float:
        """Without collectives, and without copies to the host."""
        return sum(cost.cycles for cost in self.costs) / self.clock

    @property
    def cycles_by_part(self) -> dict[str, float]:
        """Cycles of a step by part, the largest first; what is left of collectives is a part of its own."""
        parts: collections.Counter[str] = collections.Counter()
        for cost in self.costs:
            parts[cost.part if cost.flops is None else f"{cost.part} kernels"] += cost.cycles  # type: ignore[assignment]
        parts["collectives"] += sum(one.exposed for one in self.collectives) * self.clock  # type: ignore[assignment]
        if self.host:
            parts["copies to the host"] += sum(one.exposed for one in self.host) * self.clock  # type: ignore[assignment]
        return dict(parts.most_common())


class _Pricer:
    def __init__(self, program: Program, topology: Topology, mesh: dict[str, int], devices, visible_share: float):
        self.program, self.topology, self.mesh, self.devices = program, topology, mesh, devices
        self.visible_share = visible_share
        self.assumed: dict[str, None] = {}
        self.shapes: dict[str, dict[str, str]] = {}
        self.lines: dict[str, list[float]] = {}

    def cycles(self, computation: str, one: Instruction) -> tuple[float, Basis, float | None] | None:
        """Returns the cycles of an instruction, once, and whose estimate they are; None where it is free."""
        if one.cycles is not None:
            return one.cycles, "compiler", None
        if self.host_bytes(computation, one):
            return None
        if kernels.is_kernel(one):
            chip = self.topology.chip
            cost = kernels.kernel_cost(
                self.program,
                computation,
                one,
                peak_flops=chip.peak_flops,
                visible_share=self.visible_share,
                # A device has the experts of its part of the axis, and is sent as many of the choices.
                filled_share=1 / self.mesh.get("expert", 1),
                kind=self.topology.name.partition(":")[0],
            )
            self.assumed[cost.assumed + (f" ({cost.name})" if cost.flops is None else "")] = None
            return cost.seconds * chip.clock, "kernel", cost.flops
        if one.opcode in _FREE or one.opcode.removesuffix("-start").removesuffix("-done") in KINDS:
            return None
        if one.opcode in ("custom-call", "fusion"):
            # Hints to the compiler, and the parts of a collective that runs beside others.
            return None
        moved = num_bytes(one.shape) + sum(num_bytes(self.shape(computation, name)) for name in one.operands)
        return moved / self.topology.chip.hbm_bandwidth * self.topology.chip.clock, "bytes", None

    def host_bytes(self, computation: str, one: Instruction) -> int:
        """Returns how many bytes an instruction copies to the memory of the host, or from there; 0 for most."""
        if one.opcode in _HANDS_ON or one.opcode.endswith("-done") or not one.operands:
            return 0
        shapes = (one.shape, *(self.shape(computation, name) for name in one.operands))
        if not any(HOST_SPACE in shape for shape in shapes):
            return 0
        # A slice of an array of the host is copied: the smallest of the arrays that are more than an index.
        arrays = (array for shape in shapes for array in array_sizes(shape))
        return min((num_bytes(f"{kind}[{','.join(map(str, sizes))}]") for kind, sizes in arrays if sizes), default=0)

    def host_costs(self) -> list[HostCost]:
        """Returns the copies to the host and from there, by computation."""
        found: collections.Counter[tuple[str, int]] = collections.Counter()
        for use in uses(self.program):
            found[use.computation, use.times] += self.host_bytes(use.computation, use.instruction)
        costs = []
        for (computation, times), size in found.items():
            once, beside = size / HOST_BANDWIDTH, sum(self.line_seconds(computation))
            if size:
                costs.append(
                    HostCost(num_bytes=size * times, seconds=once * times, exposed=max(once - beside, 0.0) * times)
                )
        return costs

    def shape(self, computation: str, name: str) -> str:
        if computation not in self.shapes:
            self.shapes[computation] = {line.name: line.shape for line in self.program.computations[computation]}
        return self.shapes[computation].get(name, "")

    def stack(self, computation: str, one: Instruction) -> list[Frame]:
        """Returns the frames of an instruction, or of what it reads where the compiler made it itself."""
        if one.frame is not None:
            return self.program.stack(one.frame)
        by_name = {line.name: line for line in self.program.computations[computation]}
        frames = (by_name[name].frame for name in one.operands if name in by_name)
        return self.program.stack(next((frame for frame in frames if frame is not None), None))

    def line_seconds(self, computation: str) -> list[float]:
        """Returns the time of each line of a computation, once, with the loops it begins."""
        if computation not in self.lines:
            self.lines[computation] = []  # a computation does not call itself
            self.lines[computation] = [
                self._seconds(computation, one) for one in self.program.computations.get(computation, ())
            ]
        return self.lines[computation]

    def _seconds(self, computation: str, one: Instruction) -> float:
        if one.opcode == "while":
            return sum(self.line_seconds(one.calls("body") or "")) * (trip_count(self.program, one) or 1)
        if one.opcode == "call":
            return sum(self.line_seconds(one.calls("to_apply") or ""))
        if one.opcode == "conditional":
            return max((sum(self.line_seconds(branch)) for branch in one.branches), default=0.0)
        priced = self.cycles(computation, one)
        return 0.0 if priced is None else priced[0] / self.topology.chip.clock

    def collective(self, one: Collective) -> CollectiveCost:
        once = seconds(one, self.topology, self.devices)
        beside = sum(self.line_seconds(one.use.computation)[one.use.index + 1 : one.last_index])
        stack = self.stack(one.use.computation, one.use.instruction)
        if not stack:
            frame = Instruction(name="", shape="", opcode="", operands=(), text=one.text).frame
            stack = self.program.stack(frame)
        return CollectiveCost(
            collective=one,
            source=source_of(stack),
            part=part_of(stack),
            seconds=once * one.times,
            exposed=max(once - beside, 0.0) * one.times,
        )


def price(
    program: Program, *, topology: Topology, mesh: dict[str, int], devices: np.ndarray, visible_share: float
) -> Pricing:
    """Estimates a program.

    Args:
      program: optimised, for the topology.
      topology: the chips.
      mesh: sizes of its axes, in order.
      devices: in the order of the mesh, flat.
      visible_share: of all pairs of query and key, those the mask shows.
    """
    pricer = _Pricer(program, topology, mesh, devices, visible_share)
    costs, unknown = [], 0
    for use in uses(program):
        one = use.instruction
        unknown += one.opcode == "while" and trip_count(program, one) is None
        priced = pricer.cycles(use.computation, one)
        if priced is None:
            continue
        stack = pricer.stack(use.computation, one)
        cycles, basis, flops = priced
        costs.append(
            Cost(
                name=one.name,
                part=part_of(stack),
                source=source_of(stack),
                op_name=one.op_name,
                times=use.times,
                cycles=cycles * use.times,
                basis=basis,
                flops=None if flops is None else flops * use.times,
            )
        )
    found = [pricer.collective(one) for one in find_collectives(program, mesh)]
    host = pricer.host_costs()
    assumed = list(pricer.assumed)
    if host:
        assumed.append(
            f"copies to the host's memory and from there: bytes over {HOST_BANDWIDTH / 1e9:g} GB/s, all beside the "
            "computation of their loop"
        )
    if unknown:
        assumed.append(f"{unknown} loops whose number of rounds is computed count as one round")
    return Pricing(
        costs=tuple(sorted(costs, key=lambda cost: -cost.cycles)),
        collectives=tuple(sorted(found, key=lambda one: -one.seconds)),
        host=tuple(host),
        assumed=tuple(assumed),
        clock=topology.chip.clock,
    )
