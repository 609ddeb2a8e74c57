"""`lmjax scaling RUN RUN ...`: the scaling law of runs of different sizes and lengths."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import tyro

from lmjax.analysis.scaling_runs import Measured, ScalingPoint, scaling_points
from lmjax.cli.arguments import parse_arguments
from lmjax.curves.scaling import IsoFlop, ScalingFit, fit_isoflop, fit_scaling_law
from lmjax.train.progress import short_number

_FIELDS = ("offset", "parameter_scale", "parameter_exponent", "token_scale", "token_exponent")
_SYMBOLS = ("E", "A", "alpha", "B", "beta")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScalingArguments:
    """Fit L(N, D) = E + A / N^alpha + B / D^beta to the last validation of at least six runs, N their parameters and D
    their tokens, and say which N and D budgets are best spent on (Hoffmann et al. 2022)."""

    runs: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """Run folders."""
    by: Measured = "loss"
    """The number to fit; runs with different tokenizers can only be compared by bits per byte."""
    embeddings: bool = True
    """Whether tables of tokens and positions count as parameters."""
    flops: tuple[float, ...] = ()
    """Budgets, in FLOPs (6 N D), to say the best N and D of; 10 and 100 times the largest run's when unset."""
    json: bool = False
    """Print one JSON object, and nothing else."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(ScalingArguments, arguments, command="scaling")
    if bad := [budget for budget in options.flops if not 0 < budget < float("inf")]:
        raise ValueError(f"--flops {bad[0]}: must be above 0 and finite")
    points = scaling_points(options.runs, by=options.by, embeddings=options.embeddings)
    sizes, losses = [float(point.parameters) for point in points], [point.loss for point in points]
    fit = fit_scaling_law(sizes, [float(point.tokens) for point in points], losses)
    try:
        isoflop = fit_isoflop([point.flops for point in points], sizes, losses)
    except ValueError as error:
        isoflop, reason = None, str(error)
    largest = max(point.flops for point in points)
    budgets = options.flops or (10 * largest, 100 * largest)
    if options.json:
        print(json.dumps(_as_json(points, fit, isoflop, budgets)))
        return
    for point in points:
        print(
            f"{point.folder!s:<32} N {short_number(point.parameters):>7}   D {short_number(point.tokens):>7}   "
            f"{options.by} {point.loss:.4f}   law {float(fit.law(point.parameters, point.tokens)):.4f}"
        )
    print("\nL(N, D) = E + A / N^alpha + B / D^beta, with 90% intervals of a bootstrap over the runs")
    for symbol, field in zip(_SYMBOLS, _FIELDS, strict=True):
        found = fit.estimate(field)
        print(f"  {symbol:<6} {found.value:10.4g}   {found.low:.4g} to {found.high:.4g}")
    print("\nbest use of a budget, by the law")
    for budget in budgets:
        parameters, tokens = fit.law.best_split(budget)
        loss = float(fit.law(parameters, tokens))
        print(
            f"  {budget:9.3g} FLOPs   N {short_number(parameters):>7}   D {short_number(tokens):>7}   "
            f"{options.by} {loss:.4f}"
        )
    if isoflop is None:
        print(f"\nno isoFLOP fit: {reason}")
    else:
        print(f"\nisoFLOP: N_best = {isoflop.factor:.4g} C^{isoflop.exponent:.3f}")
        for budget, best, loss in zip(isoflop.flops, isoflop.best_parameters, isoflop.best_losses, strict=True):
            print(f"  {budget:9.3g} FLOPs   N {short_number(best):>7}   {options.by} {loss:.4f}")


def _as_json(
    points: Sequence[ScalingPoint], fit: ScalingFit, isoflop: IsoFlop | None, budgets: Sequence[float]
) -> dict[str, Any]:
    runs = [
        {"folder": str(point.folder), "parameters": point.parameters, "tokens": point.tokens, "loss": point.loss}
        for point in points
    ]
    best = [dict(zip(("parameters", "tokens"), fit.law.best_split(budget), strict=True)) for budget in budgets]
    return {
        "runs": runs,
        "law": {field: dataclasses.asdict(fit.estimate(field)) for field in _FIELDS},
        "best": [{"flops": budget} | split for budget, split in zip(budgets, best, strict=True)],
        "isoflop": None if isoflop is None else dataclasses.asdict(isoflop),
    }
