"""`lmjax inspect RUN --step N`: the texts of a step, with the loss and the gradient norm of each row."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import tyro

from lmjax.cli.arguments import parse_arguments
from lmjax.runs.data import corpus_of
from lmjax.runs.inspecting import InspectedRow, inspect_step, open_unsaved
from lmjax.train.remote_run import local_run, step_before


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectArguments:
    """Show the rows of a step, the most suspicious first: those whose loss is not finite, then by gradient norm."""

    run: tyro.conf.Positional[pathlib.Path]
    """The run folder."""
    step: int
    """The step, as metrics and messages count it, from 1."""
    roll_back: int | None = None
    """Show rows that were passed over: those of `step` as it was before this roll-back (1 for the first)."""
    prepared: pathlib.Path | None = None
    """The prepared data of the run, if they have been moved."""
    rows: int = 8
    """Rows to show; 0 shows all."""
    width: int = 200
    """Characters to show of each text; 0 shows all of it."""

    def __post_init__(self):
        for name, least in (("step", 1), ("rows", 0), ("width", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least {least}")


def _with_checkpoint_before(path: pathlib.Path, options: InspectArguments) -> pathlib.Path:
    """Returns the local copy of a run in object storage, with the checkpoint that the step is measured with."""
    return local_run(path, step_before(path, options.step))


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(
        InspectArguments, arguments, command="inspect", runs=("run",), data=("prepared",), fetch=_with_checkpoint_before
    )
    opened = open_unsaved(options.run)
    corpus = corpus_of(opened, options.run, prepared=options.prepared)
    found = inspect_step(opened, corpus, options.step, roll_back=options.roll_back)
    rows = sorted(found.rows, key=_suspicion, reverse=True)
    shown = rows[: options.rows or None]
    print(f"step {found.step}: {len(rows)} rows, measured with the parameters of step {found.checkpoint}")
    if not found.by_row:
        print("the objective has no loss of single rows: it compares or divides the rows of a batch")
    for row in shown:
        numbers = f": loss {row.loss:.4f}, gradient norm {row.grad_norm:.4f}" if found.by_row else ""
        text = row.text[: options.width or None]
        print(f"row {row.number}{numbers}: {text!r}{'...' if len(text) < len(row.text) else ''}")
    if len(shown) < len(rows):
        print(f"{len(rows) - len(shown)} more rows: --rows 0 shows all")


def _suspicion(row: InspectedRow) -> float:
    finite = math.isfinite(row.loss) and math.isfinite(row.grad_norm)
    return row.grad_norm if finite else math.inf
