"""The text of an optimised XLA program (HLO), read far enough to count what it does.

A program is a list of computations, one of them the entry; a computation is a list of instructions, in the order
in which they run. Loops, calls and fusions name other computations. The tables at the head of the text say from
which Python lines an instruction came.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping

_HEADER = re.compile(r"(ENTRY )?%?(\S+) \(.*\{$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


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

    @property
    def branches(self) -> list[str]:
        """The computations that a condition chooses from."""
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.text)
        if listed:
            return _NAME.findall(listed[1])
        return [name for attribute in ("true_computation", "false_computation") if (name := self.calls(attribute))]


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
