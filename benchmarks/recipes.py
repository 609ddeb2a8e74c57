"""What the small recipes reach: every one is trained as its file stands, one after the other.

    python benchmarks/recipes.py [NAME ...] [--times 1]

Prints a line for each number of the validation: before the first step, at the end, by what share losses fell, and
the minutes of the whole command, start and compilation included. No loss here can fall below 0. So one that fell by a
fifth of its first value has fallen by a fifth or more of what separates that from any run, however long.
``--times 8`` makes runs eight times as long, to see where the others end. Data is prepared on first use.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Annotated

import tyro

from lmjax.train.recipes import find_recipe, load_recipe

ROOT = pathlib.Path(__file__).parent.parent
PREFERENCES = pathlib.Path("data/preferences.jsonl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Which recipes to train, and for how long."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Files of configs/ without `.py`; without any, all small ones that need no other run."""
    times: int = 1
    """How many times as many steps as the recipe has."""


def small_recipes() -> list[str]:
    """Every recipe that trains in minutes on a CPU and begins with nothing."""
    small = {path.stem for path in (ROOT / "configs" / "small").glob("*_small.py")} - {"continue_small"}
    return ["stdlib_demo", "t5_tiny", *sorted(small)]


def command(name: str, folder: str, *, times: int) -> list[str]:
    """The command line that trains a recipe in a folder of its own."""
    line = ["lmjax", "train", name, "--folder", folder]
    if times > 1:
        line += ["--train.steps", str(times * load_recipe(find_recipe(name)).train.steps)]
    return line


def train(name: str, *, times: int) -> tuple[float, list[dict]]:
    """Trains a recipe; its minutes and its readings of the validation."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = subprocess.run(command(name, folder, times=times), cwd=ROOT, capture_output=True, text=True)
        minutes = (time.perf_counter() - start) / 60
        if run.returncode:
            raise SystemExit(f"{name}: {run.stderr or run.stdout}")
        lines = (pathlib.Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return minutes, [line for line in map(json.loads, lines) if any(key.startswith("valid/") for key in line)]


def main(config: Config) -> None:
    """Trains and prints."""
    names = config.names or small_recipes()
    if {"dpo_small", "reward_small"} & set(names) and not (ROOT / PREFERENCES).exists():
        subprocess.run([sys.executable, "configs/data/preferences.py", str(PREFERENCES)], cwd=ROOT, check=True)
    print("| Recipe | Loss | Steps | Before | At the end | Fell by | Minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        minutes, readings = train(name, times=config.times)
        for metric, before, after in changes(readings[0], readings[-1]):
            fell = f"{1 - after / before:.0%}" if metric.endswith("loss") else ""
            row = (f"`{name}`", metric, readings[-1]["step"], f"{before:.3f}", f"{after:.3f}", fell, f"{minutes:.1f}")
            print("|", " | ".join(map(str, row)), "|", flush=True)


def changes(first: dict, last: dict) -> list[tuple[str, float, float]]:
    """Each metric of the validation, in the first reading and the last; of perplexities the losses say it all."""
    names = [key.removeprefix("valid/") for key in last if key.startswith("valid/")]
    losses = [name for name in names if not name.endswith(("perplexity", "bits_per_byte"))]
    return [(name, first[f"valid/{name}"], last[f"valid/{name}"]) for name in losses]


if __name__ == "__main__":
    main(tyro.cli(Config))
