"""`lmjax plot RUN [RUN ...]`: loss curves of one or more runs as a picture."""

import dataclasses
import pathlib
from collections.abc import Sequence

import tyro

from lmjax.cli.arguments import parse_arguments, without_checkpoint
from lmjax.train.metrics import METRICS_FILE


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlotArguments:
    """Draw the loss curves of one or more runs."""

    runs: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """Run folders."""
    output: pathlib.Path | None = None
    """The picture; `loss.png` in the first run's folder when unset."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    from lmjax.analysis.plots import plot_loss

    options = parse_arguments(PlotArguments, arguments, command="plot", runs=("runs",), fetch=without_checkpoint)
    if not options.runs:
        raise ValueError("name at least one run folder, as in `lmjax plot runs/stdlib_demo`")
    for folder in options.runs:
        if not (folder / METRICS_FILE).exists():
            raise ValueError(f"{folder} is not the folder of a run that has begun: it has no {METRICS_FILE}")
    print(plot_loss(list(options.runs), options.output or options.runs[0] / "loss.png"))
