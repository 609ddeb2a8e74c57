"""A program compiled for chips that are not here, and what the compiler says of it."""

import dataclasses
import pathlib
import re
from typing import Any

import jax
from jax.sharding import Mesh

from lmjax.compile.hlo import Program, parse
from lmjax.compile.kernels import attention_rounds
from lmjax.compile.topology import Topology

_INVOLUNTARY = re.compile(r"Involuntary full rematerialization.*?(?:for HLO operation|operation) (%\S+ = \S+).*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one chip.

    Attributes:
      arguments: what the program is given, such as parameters, optimizer state and the batch.
      temporaries: what lives while it runs.
      other: results that take no argument's place, and the program itself.
      held: what it neither reads nor writes, and what stays on the chip meanwhile.
    """

    arguments: int
    temporaries: int
    other: int
    held: int = 0

    @property
    def peak(self) -> int:
        """All of it."""
        return self.arguments + self.temporaries + self.other + self.held


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What a program is there for.

    Attributes:
      tokens: that it works on, those of all chips.
      flops_per_token: of the model, by its formula.
      visible_share: of all pairs of query and key, those that the mask shows.
      held: bytes of a chip that are not the program's, and stay there while it runs.
      written: how many tokens it adds to each row, in a loop that may end earlier; 0 for a program that adds none.
    """

    tokens: int
    flops_per_token: float
    visible_share: float
    held: int = 0
    written: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """A program and what the compiler said of it.

    Attributes:
      topology: the chips.
      mesh: their arrangement.
      work: what the program is there for.
      memory: of a chip; None where the program does not fit.
      program: None where it does not fit.
      refusal: the compiler's reason where it does not fit.
      involuntary: the operations whose arrays are gathered whole because their layouts do not go together.
    """

    topology: Topology
    mesh: Mesh
    work: Work
    memory: Memory | None
    program: Program | None
    refusal: str
    involuntary: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the program fits into the memory of a chip."""
        return self.memory is not None and self.memory.peak <= self.topology.chip.hbm_bytes


def compile_program(
    lowered: jax.stages.Lowered, *, topology: Topology, mesh: Mesh, work: Work, log_folder: str | None = None
) -> tuple[Compiled, Any]:
    """Compiles a program, and returns what is known of it, with jax's own object (None if it does not fit).

    Args:
      lowered: the program before the compiler has optimised it.
      topology: the chips.
      mesh: their arrangement.
      work: what the program is there for.
      log_folder: where libtpu writes its warnings.
    """
    known = warnings_of(log_folder)
    compiled, memory, program, refusal = None, None, None, ""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        refusal = str(error)
    else:
        memory = _memory(compiled.memory_analysis(), held=work.held)
        program = with_rounds(parse(compiled.as_text() or ""), work)
    involuntary = tuple(line for line in warnings_of(log_folder) if line not in known)
    found = Compiled(
        topology=topology,
        mesh=mesh,
        work=work,
        memory=memory,
        program=program,
        refusal=refusal,
        involuntary=involuntary,
    )
    return found, compiled


def with_rounds(program: Program, work: Work) -> Program:
    """Returns the program with the rounds of those loops that end by what they compute."""
    rounds = dict(attention_rounds(program, work.visible_share))
    if work.written:
        # The loop that writes text stands in no other one.
        outermost = [one for one in program.computations[program.entry] if one.opcode == "while"]
        rounds |= {one.name: work.written for one in outermost if re.fullmatch(r"jit\(\w+\)/while", one.op_name)}
    return dataclasses.replace(program, rounds=rounds)


def _memory(analysis: Any, *, held: int) -> Memory:
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        other=analysis.output_size_in_bytes - analysis.alias_size_in_bytes + analysis.generated_code_size_in_bytes,
        held=held,
    )


def warnings_of(folder: str | None) -> list[str]:
    """Returns the operations of libtpu's warnings that an array had to be gathered whole, from its log.

    Args:
      folder: of the log.
    """
    lines = []
    for path in sorted(pathlib.Path(folder).glob("*.WARNING.*")) if folder else ():
        lines += [found[1] for found in _INVOLUNTARY.finditer(path.read_text(errors="replace"))]
    return lines
