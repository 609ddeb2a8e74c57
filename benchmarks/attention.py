"""Times our dense and chunked attention, and ``jax.nn``'s dense one, on packed documents.

    python benchmarks/attention.py [--lengths 256 1024 4096 --documents 4 --kind causal]

All run in turn, so that whatever else the machine does falls on all; a figure is the median over
the rounds of output and gradients by query, key and value. Memory is XLA's temporary allocation.
"""

import dataclasses
import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console
from rich.table import Table

from lmjax import masks
from lmjax.kernels import attend

BACKENDS = ("jax.nn", "xla", "chunked")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    lengths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    """Positions a row."""
    tokens: int = 4096
    """Tokens a batch: rows times length."""
    documents: float = 4.0
    """Documents a row, on average; 1 leaves rows whole."""
    kind: str = "causal"
    """Mask within a document: causal or bidirectional."""
    heads: int = 4
    """Query heads."""
    kv_heads: int = 4
    """Key-value heads."""
    width: int = 64
    """Head width."""
    dtype: str = "float32"
    """Dtype of queries, keys and values."""
    rounds: int = 5
    """Timed calls of each function."""


def make_inputs(config: Config, length: int):
    keys = jax.random.split(jax.random.key(0), 4)
    rows = max(config.tokens // length, 1)
    query = jax.random.normal(keys[0], (rows, length, config.heads, config.width), config.dtype)
    key, value = (jax.random.normal(k, (rows, length, config.kv_heads, config.width), config.dtype) for k in keys[1:3])
    begins = jax.random.uniform(keys[3], (rows, length)) < (config.documents - 1) / length
    return query, key, value, 1 + jnp.cumsum(begins, axis=1, dtype=jnp.int32)


def compile_backend(config: Config, backend: str, inputs):
    def loss(query, key, value, segments):
        mask = masks.packed(segments, config.kind)
        if backend == "jax.nn":
            visible_B1TS = mask.dense(key.shape[1])[:, None]
            output = jax.nn.dot_product_attention(query, key, value, mask=visible_B1TS, implementation="xla")
        else:
            output = attend(query, key, value, mask, backend=backend)
        return jnp.sum(output.astype(jnp.float32) ** 2)

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*inputs).compile()


def measure(functions: dict, inputs, rounds: int) -> dict[str, float]:
    """Median milliseconds of each, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*inputs))
            if round_number:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main(config: Config) -> None:
    console = Console()
    console.print(
        f"value_and_grad of attention, {config.heads} heads over {config.kv_heads} of {config.width}, {config.dtype}, "
        f"{config.kind}, about {config.documents:g} documents a row; median of {config.rounds} rounds; jax "
        f"{jax.__version__} on {jax.devices()[0].device_kind} ({os.cpu_count()} cores, {platform.machine()})"
    )
    columns = ("rows x length", *(f"{name} {unit}" for unit in ("ms", "MiB") for name in BACKENDS), "ms", "MiB")
    table = Table(*columns, title="Attention; the last two columns are chunked / xla", title_justify="left")
    for length in config.lengths:
        inputs = make_inputs(config, length)
        functions = {backend: compile_backend(config, backend, inputs) for backend in BACKENDS}
        times = measure(functions, inputs, config.rounds)
        memory = {name: f.memory_analysis().temp_size_in_bytes / 2**20 for name, f in functions.items()}
        ratios = (times["chunked"] / times["xla"], memory["chunked"] / memory["xla"])
        figures = (*times.values(), *memory.values(), *ratios)
        table.add_row(f"{inputs[0].shape[0]} x {length}", *(f"{figure:.3g}" for figure in figures))
    console.print(table)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
