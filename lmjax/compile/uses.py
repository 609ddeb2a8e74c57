"""Which instructions of a program run, and how often: loops are followed, with their trip counts."""

import dataclasses
import math
import re
from collections.abc import Iterator

from lmjax.compile.hlo import Instruction, Program

_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """An instruction that runs.

    Attributes:
      instruction: which.
      times: how often it runs in a program.
      computation: where it stands.
      index: its place there.
    """

    instruction: Instruction
    times: int
    computation: str
    index: int


def uses(program: Program) -> Iterator[Use]:
    """Returns every instruction that runs, with how often it does; the inside of a fusion is part of the fusion.

    A loop's body counts as often as :func:`trip_count` says, once where that is unknown; of the branches of a
    condition the dearest counts.
    """
    yield from _uses(program, program.entry, 1)


def _uses(program: Program, computation: str, times: int) -> Iterator[Use]:
    for index, one in enumerate(program.computations.get(computation, ())):
        yield Use(instruction=one, times=times, computation=computation, index=index)
        if one.opcode == "while":
            yield from _uses(program, one.calls("body") or "", times * (trip_count(program, one) or 1))
        elif one.opcode == "call":
            yield from _uses(program, one.calls("to_apply") or "", times)
        elif one.opcode == "async-start":
            yield from _uses(program, one.calls("calls") or "", times)
        elif one.opcode == "conditional":
            branches = [list(_uses(program, name, times)) for name in one.branches]
            yield from max(branches, key=_cycles_of, default=[])


def _cycles_of(found: list[Use]) -> int:
    return sum((use.instruction.cycles or 0) * use.times for use in found)


def trip_count(program: Program, loop: Instruction) -> int | None:
    """Returns how often the body of a loop runs; None where the program computes it and ``program.rounds`` lacks it.

    The compiler may say so itself. Else the condition is a comparison of a counter with a constant, and the
    counter, which begins at 0, grows by a constant, or by 1.
    """
    known = _KNOWN_TRIPS.search(loop.text)
    if known:
        return int(known[1])
    if loop.name in program.rounds:
        return program.rounds[loop.name]
    lines = list(inside(program, loop.calls("condition") or ""))
    comparisons = [one for one in lines if one.opcode == "compare"]
    limits = [_constant(one) for one in lines if one.opcode == "constant" and one.shape.startswith(("s", "u"))]
    if len(comparisons) != 1 or len(limits) != 1 or limits[0] is None:
        return None
    direction = re.search(r"direction=(\w+)", comparisons[0].text)
    limit = limits[0] + {"LT": 0, "GT": 0, "LE": 1, "GE": 1}.get(direction[1] if direction else "", math.nan)
    step = _step(program, loop, lines)
    return None if math.isnan(limit) else math.ceil(max(limit, 0) / step)


def inside(program: Program, computation: str) -> Iterator[Instruction]:
    """Returns the instructions of a computation, and those of the fusions in it."""
    for one in program.computations.get(computation, ()):
        yield one
        if one.opcode == "fusion":
            yield from inside(program, one.calls("calls") or "")


def _constant(one: Instruction) -> int | None:
    value = re.match(r"\((-?\d+)\)", one.text)
    return int(value[1]) if value else None


def _step(program: Program, loop: Instruction, condition: list[Instruction]) -> int:
    """Returns by how much the counter grows, where the body adds a constant to it in plain sight; else 1."""
    indices = [re.search(r"index=(\d+)", one.text) for one in condition if one.opcode == "get-tuple-element"]
    body = {one.name: one for one in program.computations.get(loop.calls("body") or "", ())}
    if len(indices) != 1 or indices[0] is None or not body:
        return 1
    result = list(body.values())[-1]
    place = int(indices[0][1])
    grown = body.get(result.operands[place]) if result.opcode == "tuple" and place < len(result.operands) else None
    if grown is None or grown.opcode != "add":
        return 1
    steps = [_constant(body[name]) for name in grown.operands if name in body and body[name].opcode == "constant"]
    return steps[0] if len(steps) == 1 and steps[0] else 1
