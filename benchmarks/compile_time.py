"""Does compile time grow with depth? Scanned layers, 48 against 12, and the same 12 unrolled.

    python benchmarks/compile_time.py

Gradient of a causal loss, compiled anew each time, turn about; medians and their ratio are printed. The goal is a
ratio of at most 1.5.
"""

import argparse
import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.losses import linear_cross_entropy
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import module_spec
from lmjax.models.transformer import Transformer
from lmjax.types import make_stream


def compile_seconds(config: ModelConfig) -> float:
    spec = module_spec(lambda key: Transformer(config, rngs=nnx.Rngs(params=key)))
    tokens = jax.ShapeDtypeStruct((4, 128), jnp.int32)

    def loss(params, tokens_BT):
        model = spec.bind(params)
        hidden_BTD = model(make_stream(tokens_BT, None, "causal")).states_BTD
        weights_BT = jnp.ones(tokens_BT.shape)
        return linear_cross_entropy(hidden_BTD, model.head().weight_DV, tokens_BT, weights_BT)

    jax.clear_caches()
    start = time.perf_counter()
    jax.jit(jax.grad(loss)).lower(spec.shapes, tokens).compile()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    base = ModelConfig(vocab_size=1024, width=128, num_heads=4, num_layers=12)
    variants = {
        "12 scanned": base,
        "48 scanned": dataclasses.replace(base, num_layers=48),
        "12 unrolled": dataclasses.replace(base, execution=ExecutionConfig(scan_layers=False)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, config in variants.items():
            seconds[name].append(compile_seconds(config))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:>12}: {median:6.2f} s")
    print(f"48 scanned / 12 scanned: {medians['48 scanned'] / medians['12 scanned']:.2f}")
    print(f"12 unrolled / 12 scanned: {medians['12 unrolled'] / medians['12 scanned']:.2f}")


if __name__ == "__main__":
    main()
