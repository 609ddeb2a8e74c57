"""Times a generated token with a key-value cache against recomputing the whole text for each token.

    python benchmarks/decode.py [--num-layers 12 --width 256 --prompt 64 --new 64 --rounds 3]

Both are one jit with the loop inside, greedy, and must give the same text. The rounds of the two run in
turn, so that whatever else the machine does falls on both; a figure is the best round.
"""

import dataclasses
import functools
import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from lmjax.decode.logits import SamplingConfig
from lmjax.decode.sample import generate
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.models.parameters import module_spec
from lmjax.models.transformer import Transformer
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import make_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    num_layers: int = 12
    """Blocks."""
    width: int = 256
    """Model width; heads are 64 wide."""
    vocab: int = 8192
    """Vocabulary size."""
    scan_layers: bool = True
    """Whether the parameters of the layers are stacked, as a large model's are."""
    batch: int = 1
    """Texts at a time."""
    prompt: int = 64
    """Tokens of the prompt."""
    new: int = 64
    """Tokens to add."""
    rounds: int = 3
    """Timed calls of each."""


@functools.partial(jax.jit, static_argnames=("spec", "new"))
def recompute(params, prompt_BT, *, spec, new: int):
    """Greedy text by a forward pass over all of it (and the room left for the rest) for each token."""
    model = spec.bind(params)
    num_prompt = prompt_BT.shape[1]
    text_BT = jnp.pad(prompt_BT, ((0, 0), (0, new)))

    def advance(step, text_BT):
        hidden_BTD = model(make_stream(text_BT, None, "causal")).states_BTD
        logits_BV = model.logits(jax.lax.dynamic_index_in_dim(hidden_BTD, num_prompt + step - 1, 1, keepdims=False))
        token_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        return jax.lax.dynamic_update_index_in_dim(text_BT, token_B, num_prompt + step, 1)

    return jax.lax.fori_loop(0, new, advance, text_BT)[:, num_prompt:]


def main(config: Config) -> None:
    model = ModelConfig(
        vocab_size=config.vocab,
        width=config.width,
        num_layers=config.num_layers,
        num_heads=config.width // 64,
        execution=ExecutionConfig(scan_layers=config.scan_layers, remat="none"),
    )
    spec = module_spec(lambda key: Transformer(model, rngs=nnx.Rngs(params=key)))
    params = jax.jit(spec.init)(jax.random.key(0))
    vocabulary = Vocabulary(size=config.vocab, byte_length_V=np.ones(config.vocab, np.int32))
    prompt_BT = np.asarray(jax.random.randint(jax.random.key(1), (config.batch, config.prompt), 0, config.vocab))
    functions = {
        "cached": lambda: generate(
            spec,
            params,
            prompt_BT.tolist(),
            vocabulary=vocabulary,
            max_new_tokens=config.new,
            sampling=SamplingConfig(temperature=0.0),
        ),
        "recomputed": lambda: np.asarray(recompute(params, prompt_BT, spec=spec, new=config.new)).tolist(),
    }
    texts, best = {}, dict.fromkeys(functions, float("inf"))
    for round_number in range(config.rounds + 1):
        for name, function in functions.items():
            begin = time.perf_counter()
            texts[name] = function()
            if round_number:
                best[name] = min(best[name], time.perf_counter() - begin)
    if texts["cached"] != texts["recomputed"]:
        raise SystemExit("the two texts differ")
    print(
        f"{config.num_layers} layers of width {config.width}, vocabulary {config.vocab}, {config.batch} x "
        f"({config.prompt} + {config.new}) tokens, float32; best of {config.rounds} rounds; jax {jax.__version__} on "
        f"{jax.devices()[0].device_kind} ({os.cpu_count()} cores, {platform.machine()})"
    )
    for name, seconds in best.items():
        print(f"{name:<11} {1000 * seconds / config.new:8.2f} ms a token")
    print(f"{'ratio':<11} {best['recomputed'] / best['cached']:8.1f}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
