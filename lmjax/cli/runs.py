"""`lmjax runs [FOLDER]`: a list of runs with their losses, speeds and states."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lmjax.analysis.plots import shown
from lmjax.analysis.run_files import RunFiles, find_runs
from lmjax.cli.arguments import parse_arguments
from lmjax.train.progress import duration, short_number
from lmjax.train.remote_run import local_runs

_STYLES = {"running": "cyan", "finished": "green", "stopped": "yellow", "failed": "red"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunsArguments:
    """List the runs in a folder and below it."""

    folder: tyro.conf.Positional[pathlib.Path] = pathlib.Path("runs")
    """The folder that the runs are in."""
    sort: Literal["changed", "loss", "bits", "step", "speed", "name"] = "changed"
    """What comes first: the run that changed last, the lowest loss or bits per byte, the most steps, the fastest."""
    json: bool = False
    """Print one JSON object for each run, and nothing else."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(
        RunsArguments, arguments, command="runs", runs=("folder",), fetch=lambda path, _: local_runs(path)
    )
    found = find_runs(options.folder)
    if not found:
        raise ValueError(f"there is no run in {options.folder}: name the folder that your runs are in")
    rows = sorted((facts(one) for one in found), key=lambda row: _key(row, options.sort))
    if options.json:
        for row in rows:
            print(json.dumps(row))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(_table(rows, options.folder))


def facts(run: RunFiles) -> dict[str, Any]:
    """Returns what a list says about a run, as JSON values; None stands for what is not known."""
    return {
        "folder": str(run.folder),
        "recipe": run.name,
        "objective": run.objective or None,
        "state": run.state,
        "step": run.last_step,
        "steps": run.total_steps,
        "train_loss": run.last("train/loss"),
        "valid_loss": run.last("valid/loss"),
        "bits_per_byte": run.last("valid/bits_per_byte"),
        "tokens_per_second": run.last("tokens_per_second"),
        "mfu": run.last("mfu"),
        "goodput": run.last("goodput"),
        "changed_at": run.changed_at or None,
    }


def _key(row: dict[str, Any], sort: str) -> tuple[float | str, str]:
    loss = row["train_loss"] if row["valid_loss"] is None else row["valid_loss"]
    rising = {"loss": loss, "bits": row["bits_per_byte"]}
    falling = {"changed": row["changed_at"], "step": row["step"], "speed": row["tokens_per_second"]}
    if sort == "name":
        return row["folder"], ""
    value = rising[sort] if sort in rising else -(falling[sort] or 0)
    return float("inf") if value is None else value, row["folder"]


def _table(rows: Sequence[dict[str, Any]], folder: pathlib.Path) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "objective", "state"):
        table.add_column(name, overflow="fold")
    for name in ("step", "loss", "validation", "bits/byte", "tokens/s", "MFU", "changed"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        path = pathlib.Path(row["folder"])
        name = str(path.relative_to(folder)) if path != folder else str(path)
        speed, mfu = row["tokens_per_second"], row["mfu"]
        table.add_row(
            Text(shown(name, 80)),
            Text(shown(row["objective"] or "", 40)),
            Text(row["state"], style=_STYLES[row["state"]]),
            f"{row['step']:,}" + ("" if row["steps"] is None else f"/{row['steps']:,}"),
            *("" if row[key] is None else f"{row[key]:.4f}" for key in ("train_loss", "valid_loss", "bits_per_byte")),
            "" if speed is None else short_number(speed),
            "" if mfu is None else f"{mfu:.1%}",
            "" if row["changed_at"] is None else f"{duration(max(time.time() - row['changed_at'], 0))} ago",
        )
    return table
