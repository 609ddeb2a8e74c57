"""Whether a step fits, from the compiler's plan for the memory, which it makes long before it is done.

With ``xla_dump_to`` libtpu writes the plan once the passes over the program have ended, and then generates code, which
takes most of the time of a large program. The compile runs in a process of its own, which is ended when the plan is
there.
"""

import dataclasses
import multiprocessing
import pathlib
import re
import tempfile
import time

from lmjax.compile.compiled import Memory, warnings_of
from lmjax.compile.hlo import Program, parse
from lmjax.compile.step import CompiledStep, described, lower, lower_evaluation, resolved_learner
from lmjax.compile.topology import Topology, open_topology, prepare_environment
from lmjax.train.config import RunConfig

PLAN = "after_optimizations-buffer-assignment.txt"
PROGRAM = "after_optimizations.txt"
AFTER = "after_optimizations_after_buffer_assignment.txt"
"""What is written after the two others, so that they are whole once it is there."""
REFUSAL = "refusal"
"""The file in which the process says why it failed."""
POLL_SECONDS = 0.2
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+)(?:, color (\d+))?(.*)$", re.MULTILINE)


class PlanError(RuntimeError):
    """The compiler ended without a plan for the memory."""


def plan_step(
    config: RunConfig, topology: Topology, *, evaluation: bool = False, log_folder: str | None = None
) -> CompiledStep:
    """Returns a recipe's step with its memory and its program, whose instructions have no cycles yet.

    Args:
      config: of the recipe.
      topology: the chips.
      evaluation: whether to plan the evaluation step.
      log_folder: where libtpu writes its warnings.

    Raises:
      ValueError: objective, model, batch and mesh do not go together; the message names the field.
      PlanError: the compiler failed, or has written no plan in a form that is known.
    """
    resolved, learner = resolved_learner(config, topology, evaluation=evaluation)
    summary, work = described(resolved, learner, evaluation=evaluation)
    known = warnings_of(log_folder)
    with tempfile.TemporaryDirectory(prefix="lmjax-plan-") as folder:
        memory, program, refusal = _plan(config, topology, evaluation, pathlib.Path(folder))
    return CompiledStep(
        topology=topology,
        mesh=learner.mesh,
        work=work,
        memory=None if memory is None else dataclasses.replace(memory, held=work.held),
        program=program,
        refusal=refusal,
        involuntary=tuple(line for line in warnings_of(log_folder) if line not in known),
        config=resolved,
        learner=learner,
        summary=summary,
    )


def _plan(
    config: RunConfig, topology: Topology, evaluation: bool, folder: pathlib.Path
) -> tuple[Memory | None, Program | None, str]:
    """Returns memory and program, or the compiler's reason why the step does not fit.

    Raises:
      PlanError: see :func:`plan_step`.
    """
    given = (config, topology.name.partition(" ")[0], topology.num_slices, evaluation, str(folder))
    process = multiprocessing.get_context("spawn").Process(target=_compile, args=given, daemon=True)
    process.start()
    try:
        while process.is_alive() and not any(folder.glob(f"*.{AFTER}")):
            time.sleep(POLL_SECONDS)
    finally:
        # On SIGTERM libtpu would print where it was.
        process.kill()
        process.join()
    if any(folder.glob(f"*.{AFTER}")):
        plan, program = (next(folder.glob(f"*.{name}")).read_text() for name in (PLAN, PROGRAM))
        return memory_of(plan), parse(program), ""
    reason = (folder / REFUSAL).read_text() if (folder / REFUSAL).exists() else f"code {process.exitcode}"
    if "RESOURCE_EXHAUSTED" in reason:
        return None, None, reason
    raise PlanError(f"the compiler ended without a plan for the memory ({reason}): leave out --plan")


def _compile(config: RunConfig, topology: str, slices: int, evaluation: bool, folder: str) -> None:
    """Compiles the step and has the compiler write into a folder, in a process of its own."""
    try:
        prepare_environment()
        resolved, learner = resolved_learner(config, open_topology(topology, slices=slices), evaluation=evaluation)
        lowered = (lower_evaluation if evaluation else lower)(resolved, learner)
        lowered.compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
    except Exception as error:
        (pathlib.Path(folder) / REFUSAL).write_text(f"{type(error).__name__}: {error}")


def memory_of(plan: str) -> Memory:
    """Reads the compiler's plan, all of which but fast memory and the program itself counts.

    Args:
      plan: the text of libtpu's ``buffer-assignment``, in which memory of color 0 is the chip's main memory.

    Raises:
      PlanError: no allocation is found in it.
    """
    sizes = {"arguments": 0, "temporaries": 0, "other": 0}
    allocations = _ALLOCATION.findall(plan)
    if not allocations:
        raise PlanError("libtpu writes its plan for the memory in a form that is not known: leave out --plan")
    for size, color, kind in allocations:
        if color in ("", "0") and "thread-local" not in kind:
            name = "arguments" if "parameter" in kind else "other" if "preallocated" not in kind else "temporaries"
            sizes[name] += int(size)
    return Memory(**sizes)
