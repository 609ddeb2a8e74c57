"""`lmjax compile RECIPE --topology v5e:8x8`: a pod on a laptop."""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from lmjax.cli.recipe import parse_recipe
from lmjax.compile.decoding import Writing, check_writes, compile_decoding
from lmjax.compile.gpu import GPUS, estimate, prepare_devices
from lmjax.compile.memory_plan import plan_step
from lmjax.compile.prediction import planned_figures, predict
from lmjax.compile.report import comparison, decoding_comparison, decoding_tables, gpu_tables, tables
from lmjax.compile.roofline import predict_decoding
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
  --plan            say whether the step fits and stop there, before code is generated; no times
  --evaluation      compile the evaluation step instead
  --decode          compile what lmjax sample runs instead: reading prompts and writing text, split over the mesh
  --batch-size N, --prompt-length N, --max-new-tokens N
                    with --decode: texts at the same time, tokens of each prompt, and tokens to add
"""

WRITING = ("batch_size", "prompt_length", "max_new_tokens")
"""The options that say how much text is written."""


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
    _check(options)
    log_folder = prepare_environment()
    with _told(options.json):
        config = parse_recipe("compile", rest, options=OPTIONS)
        compared = [(config, options)]
        if options.compare is not None:
            compared.append(_other(options, rest))
    for one, own in compared:
        if own.decode:
            check_writes(one)
    topology = open_topology(options.topology, slices=options.slices)
    if options.sweep is not None:
        _sweep(config, options.sweep, topology, as_json=options.json)
        return
    found = [_figures(one, topology, log_folder, own) for one, own in compared]
    if options.compare is not None and not options.json:
        columns = decoding_comparison if options.decode else comparison
        _print(columns(found, [config.name, options.compare]))
    if options.json:
        print(json.dumps(found[0] if options.compare is None else {"steps": found}))
    if not all(one["fits"] for one in found):
        sys.exit(1)


def _check(options: argparse.Namespace) -> None:
    """Refuses options that do not go together.

    Raises:
      ValueError: naming both.
    """
    for one, other, reason in (
        ("sweep", "compare", "a sweep compares its layouts with each other"),
        ("decode", "evaluation", "each is compiled instead of the training step"),
        ("sweep", "decode", "a sweep tries layouts of the training step; compare two with --compare mesh.tensor=4"),
        ("plan", "decode", "decoding is compiled for the layout that a whole compile of prefill gives its caches"),
        ("sweep", "plan", "a sweep sorts its layouts by their times, which a plan does not have"),
        ("sweep", "evaluation", "a sweep tries layouts of the training step"),
    ):
        if getattr(options, one) and getattr(options, other):
            raise ValueError(f"--{one} and --{other}: choose one; {reason}")
    for name in WRITING:
        if getattr(options, name) is not None and not options.decode:
            raise ValueError(f"--{name.replace('_', '-')}: has a meaning with --decode only; set that, too")


def _run_gpus(options: argparse.Namespace, rest: list[str]) -> None:
    for name in ("topology", "compare", "sweep", "decode", "evaluation", "plan"):
        if getattr(options, name):
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
    for name in ("json", "decode", "evaluation", "plan"):
        parser.add_argument(f"--{name}", action="store_true")
    for name in WRITING:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    return parser.parse_known_args(list(arguments))


def _other(options: argparse.Namespace, arguments: list[str]) -> tuple[RunConfig, argparse.Namespace]:
    """Returns what to compare with: another recipe, or this one with changed fields or options of --decode."""
    if "=" not in options.compare:
        return parse_recipe("compile", [options.compare]), options
    changed, fields = argparse.Namespace(**vars(options)), list(arguments)
    for entry in options.compare.split(","):
        field, equals, value = entry.partition("=")
        if not equals:
            raise ValueError(f"--compare {entry}: write fields as train.microbatches=8, with commas between")
        name = field.strip().replace("-", "_")
        if options.decode and name in WRITING:
            if not value.isdecimal():
                raise ValueError(f"--compare {entry}: write a whole number")
            setattr(changed, name, int(value))
        else:
            fields += [f"--{field.strip()}", value]
    return parse_recipe("compile", fields), changed


def _figures(config: RunConfig, topology: Topology, log_folder: str, options: argparse.Namespace) -> dict[str, Any]:
    if options.decode:
        writing = Writing(**{name: getattr(options, name) for name in WRITING})
        figures = predict_decoding(compile_decoding(config, topology, writing, log_folder=log_folder))
    else:
        given: dict[str, Any] = {"evaluation": options.evaluation, "log_folder": log_folder}
        if options.plan:
            figures = planned_figures(plan_step(config, topology, **given))
        else:
            figures, _ = predict(compile_step(config, topology, **given))
    if not options.json:
        for item in decoding_tables(figures) if options.decode else tables(figures):
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
