"""The text of an optimised XLA program (HLO), read far enough to count what it does.

A program is a list of computations, one of them the entry; a computation is a list of instructions, in the order
in which they run. Loops, calls and fusions name other computations. The tables at the head of the text say from
which Python lines an instruction came.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

_HEADER = re.compile(r"(ENTRY )?%?(\S+) \(.*\{$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: of the result.
      shape: of the result, as written, layout included.
      opcode: such as ``fusion``.
      operands: names of the results that it reads; of a constant, none.
      text: what stands in the parentheses, and after them.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    text: str

    @property
    def cycles(self) -> int | None:
        """The compiler's own estimate of what it takes, once; None where it gives none."""
        found = _CYCLES.search(self.text)
        return int(found[1]) if found else None

    @property
    def op_name(self) -> str:
        """What jax called the operation, as ``jit(step)/jvp()/dot_general``; empty where nothing is said."""
        found = _OP_NAME.search(self.text)
        return found[1] if found else ""

    @property
    def frame(self) -> int | None:
        """Number of the Python frame that it came from."""
        found = _FRAME.search(self.text)
        return int(found[1]) if found else None

    def calls(self, attribute: str) -> str | None:
        """Returns the computation that an attribute such as ``body`` names."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.text)
        return found[1] if found else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """A line of Python.

    Attributes:
      file: its path.
      function: its qualified name.
      line: from 1.
    """

    file: str
    function: str
    line: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A whole program.

    Attributes:
      computations: instructions, by name of the computation.
      entry: name of the computation that the program begins with.
      frames: by number, each with the number of the frame that called it, or None.
      rounds: by the name of the loop, of those whose number of rounds the program computes but that is known
        otherwise.
    """

    computations: dict[str, tuple[Instruction, ...]]
    entry: str
    frames: dict[int, tuple[Frame, int | None]]
    rounds: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def stack(self, frame: int | None) -> list[Frame]:
        """Returns the frames an instruction came from, the innermost first."""
        found: list[Frame] = []
        while frame in self.frames and len(found) < len(self.frames):
            here, frame = self.frames[frame]
            found.append(here)
        return found


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


def array_sizes(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns element type and dimensions of every array of a shape, which may be a tuple."""
    return [(kind, tuple(int(size) for size in sizes.split(",") if size)) for kind, sizes in _ARRAY.findall(shape)]


def num_bytes(shape: str) -> int:
    """Returns the bytes of a shape without padding; those of all its arrays, if it is a tuple."""
    return sum(_element_bits(kind) * math.prod(sizes) // 8 for kind, sizes in array_sizes(shape))


def _element_bits(kind: str) -> int:
    digits = re.search(r"\d+", kind)
    return 8 if digits is None else int(digits[0])


def parse(text: str) -> Program:
    """Reads a program.

    Raises:
      ValueError: there is no entry computation.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        if not line.startswith(" "):
            header = _HEADER.match(line)
            if header is not None:
                current = computations.setdefault(header[2], [])
                entry = header[2] if header[1] else entry
            continue
        instruction = None if current is None else _instruction(line)
        if instruction is not None and current is not None:
            current.append(instruction)
    if entry is None:
        raise ValueError("this is not the text of an HLO program: no line begins with ENTRY")
    return Program(
        computations={name: tuple(lines) for name, lines in computations.items()}, entry=entry, frames=_frames(text)
    )


def _instruction(line: str) -> Instruction | None:
    left, equals, right = line.strip().partition(" = ")
    if not equals or not left.removeprefix("ROOT ").startswith("%"):
        return None
    end = _closing(right, 0) + 1 if right.startswith("(") else right.find(" ")
    opcode, parenthesis, _ = right[end:].lstrip().partition("(")
    if not parenthesis:
        return None
    opens = right.index("(", end)
    closes = _closing(right, opens)
    inside = right[opens + 1 : closes]
    return Instruction(
        name=left.removeprefix("ROOT ").removeprefix("%"),
        shape=right[:end],
        opcode=opcode,
        operands=tuple(_NAME.findall(inside)),
        text=right[opens:],
    )


def _closing(text: str, opens: int) -> int:
    """Returns the place of the parenthesis that closes the one at ``opens``."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, opens):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text) - 1


def _frames(text: str) -> dict[int, tuple[Frame, int | None]]:
    tables: dict[str, dict[int, str]] = collections.defaultdict(dict)
    table = None
    for line in text.splitlines():
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            table = tables[line]
        elif (row := re.match(r"(\d+) (.*)", line)) and table is not None:
            table[int(row[1])] = row[2].strip('"')
        elif line.startswith(("%", "ENTRY")):
            break
    locations = {number: _fields(row) for number, row in tables["FileLocations"].items()}
    frames = {number: _fields(row) for number, row in tables["StackFrames"].items()}
    # Some versions print one more than the number, so that the outermost frame seems to have called itself.
    shift = int(any(fields.get("parent_frame_id") == number for number, fields in frames.items()))
    found = {}
    for number, fields in frames.items():
        place = locations.get(fields["file_location_id"], {})
        frame = Frame(
            file=tables["FileNames"].get(place.get("file_name_id", 0), ""),
            function=tables["FunctionNames"].get(place.get("function_name_id", 0), ""),
            line=place.get("line", 0),
        )
        parent = fields.get("parent_frame_id", 0) - shift
        found[number] = (frame, parent if parent > 0 else None)
    return found


def _fields(row: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", row)}


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
            either = [list(_uses(program, name, times)) for name in branches(one)]
            yield from max(either, key=_cycles_of, default=[])


def _cycles_of(found: list[Use]) -> int:
    return sum((use.instruction.cycles or 0) * use.times for use in found)


def branches(one: Instruction) -> list[str]:
    """Returns the computations of which a condition runs one."""
    listed = re.search(r"branch_computations=\{([^}]*)\}", one.text)
    if listed:
        return _NAME.findall(listed[1])
    return [name for attribute in ("true_computation", "false_computation") if (name := one.calls(attribute))]


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
