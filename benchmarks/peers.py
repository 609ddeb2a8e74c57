"""A training step of the same model beside other libraries', on a CPU: nanoGPT, transformers, and plain Flax.

    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/peers.py --nanogpt nanoGPT --torch-python PYTHON [--cases gpt llama bert t5] [--output peers.json]

`gpt` runs nanoGPT's model on eager torch and with `torch.compile` (which needs a C++ compiler), and a plain Flax NNX
model with a mask of [T, T] and all logits; `llama`, `bert` (masked tokens) and `t5` (spans) run transformers' models.
`--torch-python` is an interpreter that has torch and transformers. Each side is a process of its own; all of a case are
started first, and then take turns. Rates are medians of the turns; a ratio is the median of the ratios within a round.
All sides run with glibc's settings for large blocks, which `lmjax train` chooses on a CPU and which make torch faster,
too (`--allocator plain` leaves them out). Memory is the peak of the process.
"""

import dataclasses
import json
import os
import pathlib
import sys
from typing import Literal

import tyro
from machine import described
from steps import HEADER, OURS, Contender, Result, Shape, line, ours, race

from lmjax.cli.allocator import TUNABLES, wanted_tunables

GOALS = {
    "nanoGPT, torch.compile": 1.0,
    "transformers Llama": 1.2,
    "transformers BERT": 1.2,
    "transformers T5": 1.2,
}
"""How many times as fast lmjax is meant to be."""

Case = Literal["gpt", "llama", "bert", "t5"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    cases: tuple[Case, ...] = ("gpt", "llama", "bert", "t5")
    """Models, see above."""
    nanogpt: str | None = None
    """A clone of nanoGPT; its sides are left out without one."""
    torch_python: str = sys.executable
    """An interpreter that has torch and transformers."""
    layers: int = 6
    """Blocks; of T5's encoder and decoder each."""
    width: int = 512
    """Model width."""
    heads: int = 8
    """Heads."""
    vocabulary: int = 32_768
    """Ids."""
    length: int = 512
    """Tokens of a row."""
    batch: int = 2
    """Rows of a step."""
    rounds: int = 7
    """Turns of each side."""
    steps: int = 2
    """Steps of a turn."""
    allocator: Literal["large", "plain"] = "large"
    """Blocks of memory: as `lmjax train` on a CPU has them, or as glibc does by itself."""
    output: pathlib.Path | None = None
    """Where to write all figures as JSON."""

    def shape(self, case: Case) -> Shape:
        """The model of a case."""
        return Shape(
            family=case,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            vocabulary=self.vocabulary,
            length=self.length,
            batch=self.batch,
        )

    def contenders(self, case: Case) -> list[Contender]:
        """The sides of a case."""
        if case != "gpt":
            name = {"llama": "Llama", "bert": "BERT", "t5": "T5"}[case]
            return [ours(), Contender(f"transformers {name}", self.torch_python, "steps_torch.py")]
        sides = [ours(), Contender("plain Flax NNX", sys.executable, "steps_flax.py")]
        if self.nanogpt is not None:
            folder = ("--nanogpt", self.nanogpt)
            sides += [
                Contender("nanoGPT, eager", self.torch_python, "steps_torch.py", folder),
                Contender("nanoGPT, torch.compile", self.torch_python, "steps_torch.py", (*folder, "--compile")),
            ]
        return sides


def short_of(result: Result) -> str:
    """Says where a goal is not reached."""
    goal = GOALS.get(result.side)
    return "" if goal is None or result.ratio is None or result.ratio >= goal else f"   short of {goal:g}"


def main(config: Config) -> None:
    """Prints a table for each case."""
    if config.nanogpt is not None and not (pathlib.Path(config.nanogpt) / "model.py").is_file():
        raise SystemExit(f"error: {config.nanogpt} is not a clone of nanoGPT: it has no model.py")
    plain = {name: value for name, value in os.environ.items() if name != TUNABLES} | {"JAX_PLATFORMS": "cpu"}
    tunables = wanted_tunables(plain) if config.allocator == "large" else None
    environment = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", TUNABLES: tunables or ""}
    machine = described()
    print(f"{machine}\n{config.rounds} turns of {config.steps} steps; medians; blocks of memory: {tunables or 'plain'}")
    found: dict[str, list[Result]] = {}
    for case in config.cases:
        shape = config.shape(case)
        sizes = f"{shape.layers} layers, width {shape.width}, {shape.batch} x {shape.length} tokens"
        print(f"\n{case}: {sizes}, {shape.vocabulary} ids, float32\n{HEADER}", flush=True)
        sides = config.contenders(case)
        found[case] = []
        for result in race(shape, sides, rounds=config.rounds, steps=config.steps, environment=environment):
            print(line(result) + short_of(result), flush=True)
            found[case].append(result)
    versions = {result.facts["versions"] for results in found.values() for result in results if result.facts}
    print(f"\n{'; '.join(sorted(versions))}")
    if config.output is not None:
        cases = {case: [dataclasses.asdict(result) for result in results] for case, results in found.items()}
        content = {"machine": machine, "environment": environment, "config": dataclasses.asdict(config), "cases": cases}
        config.output.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    if any(result.side == OURS and result.missing is not None for results in found.values() for result in results):
        raise SystemExit("error: lmjax's own side did not run")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
