"""Times the fused head and loss against the plain one, and scoring gathered positions against all.

    python benchmarks/loss.py [--tokens 2048 --vocab 32768 --width 512 --rounds 9]

The rows of a pair run in turn, so that whatever else the machine does falls on both; a figure is the
median over the rounds. Memory is XLA's temporary allocation for the compiled function.
"""

import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console
from rich.table import Table

from lmjax import losses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    tokens: int = 2048
    """Tokens a batch, in rows of 256."""
    vocab: int = 32768
    """Vocabulary size."""
    width: int = 512
    """Width of the hidden states."""
    dtype: str = "float32"
    """Dtype of hidden states and head."""
    rate: float = 0.15
    """Share of positions the masked language model scores."""
    rounds: int = 9
    """Timed calls of each function."""
    chunk_size: int | None = None
    """Tokens a chunk of the fused loss; the library's choice by default."""


def plain(hidden, head, targets, weights):
    logits = jnp.einsum("btd,dv->btv", hidden, head, preferred_element_type=jnp.float32)
    return jnp.sum(weights * losses.cross_entropy(logits, targets))


def gathered(fused, num_scored, hidden, head, targets, weights):
    """The masked positions first, at a static number a row, as the MLM objective does."""
    _, index = jax.lax.top_k(weights, num_scored)
    hidden = jnp.take_along_axis(hidden, index[:, :, None], axis=1)
    targets, weights = (jnp.take_along_axis(x, index, axis=1) for x in (targets, weights))
    return fused(hidden, head, targets, weights)


def make_inputs(config: Config):
    keys = jax.random.split(jax.random.key(0), 4)
    rows, length = max(config.tokens // 256, 1), min(config.tokens, 256)
    hidden = jax.random.normal(keys[0], (rows, length, config.width)).astype(config.dtype)
    head = (jax.random.normal(keys[1], (config.width, config.vocab)) / config.width**0.5).astype(config.dtype)
    targets = jax.random.randint(keys[2], (rows, length), 0, config.vocab)
    num_scored = round(config.rate * length)
    scored = jnp.argsort(jax.random.uniform(keys[3], (rows, length)), axis=1) < num_scored
    return (hidden, head, targets), scored.astype(jnp.float32), num_scored


def measure(functions: dict[str, Callable], inputs, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds, processor seconds and temporary MiB of ``value_and_grad`` of each, run in turn."""
    compiled = {
        name: jax.jit(jax.value_and_grad(function, (0, 1))).lower(*inputs).compile()
        for name, function in functions.items()
    }
    times: dict[str, list] = {name: [] for name in compiled}
    for round_number in range(rounds + 1):
        for name, function in compiled.items():
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(function(*inputs))
            taken = time.perf_counter() - start[0], time.process_time() - start[1]
            if round_number:
                times[name].append(taken)
    return {
        name: {
            "seconds": statistics.median(wall for wall, _ in times[name]),
            "processor seconds": statistics.median(processor for _, processor in times[name]),
            "temporary MiB": function.memory_analysis().temp_size_in_bytes / 2**20,
        }
        for name, function in compiled.items()
    }


def report(console: Console, title: str, results: dict[str, dict[str, float]]) -> None:
    """A table of a pair, and the second row as a multiple of the first."""
    table = Table("")
    first, second = results.values()
    for column in first:
        table.add_column(column, justify="right")
    for name, row in results.items():
        table.add_row(name, *(f"{value:.3f}" for value in row.values()))
    table.add_row("second / first", *(f"{second[column] / first[column]:.3f}" for column in first))
    console.print(f"\n{title}", table)


def main(config: Config) -> None:
    console = Console()
    device = jax.devices()[0]
    console.print(
        f"value_and_grad by hidden states and head, {config.tokens} tokens x {config.vocab} vocabulary, "
        f"width {config.width}, {config.dtype}; median of {config.rounds} rounds; jax {jax.__version__} on "
        f"{device.device_kind} ({os.cpu_count()} cores, {platform.machine()})"
    )

    def fused(hidden, head, targets, weights):
        return losses.linear_cross_entropy(hidden, head, targets, weights, chunk_size=config.chunk_size)

    def gathered_fused(*inputs):
        return gathered(fused, num_scored, *inputs)

    inputs, scored, num_scored = make_inputs(config)
    every = jnp.ones_like(scored)
    results = measure({"plain": plain, "fused": fused}, (*inputs, every), config.rounds)
    report(console, "Head and cross entropy (goal: time <= 1, memory <= 0.333)", results)
    results = measure({"gathered": gathered_fused, "all positions": fused}, (*inputs, scored), config.rounds)
    report(console, f"Masked LM, {num_scored} of 256 scored (goal: time >= 3)", results)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
