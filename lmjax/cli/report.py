"""`lmjax report RUN [RUN ...]`: one HTML page about runs, in a single file."""

import dataclasses
import pathlib
from collections.abc import Sequence

import tyro

from lmjax.cli.arguments import parse_arguments, without_checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write one HTML page about one or more runs: curves, warnings, evaluations, power law, settings."""

    runs: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """Run folders."""
    output: pathlib.Path | None = None
    """The page; `report.html` in the first run's folder when unset."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    from lmjax.analysis.report import write_report

    options = parse_arguments(ReportArguments, arguments, command="report", runs=("runs",), fetch=without_checkpoint)
    if not options.runs:
        raise ValueError("name at least one run folder, as in `lmjax report runs/stdlib_demo`")
    print(write_report(options.runs, options.output or options.runs[0] / "report.html"))
