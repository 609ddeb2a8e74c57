"""`lmjax compile RECIPE --topology v5e:8x8`: a pod on a laptop."""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from lmjax.cli.recipe import parse_recipe
from lmjax.compile.gpu import GPUS, estimate, prepare_devices
from lmjax.compile.prediction import predict
from lmjax.compile.report import comparison, gpu_tables, tables
from lmjax.compile.step import compile_step
from lmjax.compile.sweep import layouts, parse_sweep
from lmjax.compile.topology import KINDS_TEXT, Topology, open_topology, prepare_environment
from lmjax.train.config import RunConfig

WIDTH = 160
"""Width of tables, in characters, where the output is not a terminal."""

OPTIONS = f"""
  --topology NAME   the chips: {KINDS_TEXT}, ...
  --device NAME     GPUs instead, as h100:8 ({", ".join(GPUS)}): memory and time by a stated estimate, not compiled
  --slices N        slices of these, joined by the data centre's network
  --compare OTHER   beside another recipe, or other fields: train.microbatches=8,model.execution.remat=dots
  --sweep AXES      mesh,microbatches,remat: try the layouts, the fastest first; mesh=8/16 tries these sizes of fsdp
  --json            print one JSON object
"""


def run(arguments: Sequence[str]) -> None:
    """Runs the command, which ends with exit code 1 if the step does not fit."""
    options, rest = _options(arguments)
    if options.device is not None:
        _run_gpus(options, rest)
        return
    if options.topology is None:
        parse_recipe("compile", rest, options=OPTIONS)  # which also answers --help
        raise ValueError(
            f"name the chips to compile for, as in --topology v5e:8x8; known: {KINDS_TEXT}; or --device h100:8"
        )
    if options.sweep is not None and options.compare is not None:
        raise ValueError("--sweep and --compare: choose one; a sweep compares its layouts with each other")
    log_folder = prepare_environment()
    with _told(options.json):
        config = parse_recipe("compile", rest, options=OPTIONS)
        others = [] if options.compare is None else [_other(options.compare, rest)]
    topology = open_topology(options.topology, slices=options.slices)
    if options.sweep is not None:
        _sweep(config, options.sweep, topology, as_json=options.json)
        return
    found = [_figures(one, topology, log_folder, as_json=options.json) for one in (config, *others)]
    if others and not options.json:
        _print(comparison(found, [config.name, options.compare]))
    if options.json:
        print(json.dumps(found[0] if not others else {"steps": found}))
    if not all(one["fits"] for one in found):
        sys.exit(1)


def _run_gpus(options: argparse.Namespace, rest: list[str]) -> None:
    for name in ("topology", "compare", "sweep"):
        if getattr(options, name) is not None:
            raise ValueError(f"--device and --{name}: choose one; nothing is compiled for GPUs that are not here")
    prepare_devices(options.device)
    with _told(options.json):
        config = parse_recipe("compile", rest, options=OPTIONS)
    figures = estimate(config, options.device)
    if options.json:
        print(json.dumps(figures))
    else:
        for item in gpu_tables(figures):
            _print(item)
    if not figures["fits"]:
        sys.exit(1)


def _options(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="lmjax compile RECIPE", add_help=False, allow_abbrev=False)
    parser.add_argument("--topology")
    parser.add_argument("--device")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--compare")
    parser.add_argument("--sweep")
    parser.add_argument("--json", action="store_true")
    return parser.parse_known_args(list(arguments))


def _other(text: str, arguments: list[str]) -> RunConfig:
    """Returns the configuration to compare with: another recipe's, or this recipe's with changed fields."""
    if "=" not in text:
        return parse_recipe("compile", [text])
    changes = [word for entry in text.split(",") for word in _change(entry)]
    return parse_recipe("compile", [*arguments, *changes])


def _change(entry: str) -> tuple[str, str]:
    field, equals, value = entry.partition("=")
    if not equals:
        raise ValueError(f"--compare {entry}: write fields as train.microbatches=8, with commas between")
    return f"--{field.strip()}", value


def _figures(config: RunConfig, topology: Topology, log_folder: str, *, as_json: bool) -> dict[str, Any]:
    figures, _ = predict(compile_step(config, topology, log_folder=log_folder))
    if not as_json:
        for item in tables(figures):
            _print(item)
    return figures


def _sweep(config: RunConfig, text: str, topology: Topology, *, as_json: bool) -> None:
    found: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    for name, layout in layouts(config, parse_sweep(text, config, len(topology.devices))):
        try:
            if isinstance(layout, ValueError):
                raise layout
            figures, _ = predict(compile_step(layout, topology))
        except ValueError as error:
            refused[name] = str(error)
            continue
        found[name] = figures
        print(f"{name}: {_outcome(figures)}", file=sys.stderr, flush=True)
    order = sorted(found, key=lambda name: (not found[name]["fits"], -found[name].get("mfu", 0.0)))
    if as_json:
        print(json.dumps({"layouts": {name: found[name] for name in order}, "refused": refused}))
        return
    for name in order:
        print(f"{name:<40} {_outcome(found[name])}")
    for name, reason in refused.items():
        print(f"{name:<40} refused: {reason}")


def _outcome(figures: dict[str, Any]) -> str:
    if "memory" not in figures:
        return f"does not fit: {figures['refusal'].splitlines()[0]}"
    spare = figures["memory"]["margin"] / 2**30
    fits = f"fits, {spare:.2f} GiB to spare" if figures["fits"] else f"does not fit, {-spare:.2f} GiB too much"
    return f"MFU {figures['mfu']:.1%}, {figures['seconds_per_step']:.4g} s a step, {fits}"


def _print(item: Any) -> None:
    width = None if sys.stdout.isatty() else WIDTH
    Console(highlight=False, soft_wrap=isinstance(item, str), markup=False, width=width).print(item)


def _told(as_json: bool) -> contextlib.AbstractContextManager:
    """Returns a context that sends prints to standard error if a program reads standard output, as JSON.

    Reading a recipe prints the fields that were changed.
    """
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
