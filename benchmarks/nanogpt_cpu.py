"""Training speed beside nanoGPT's own model on torch: the same shapes, the same cores, turn about.

    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/nanogpt_cpu.py --nanogpt nanoGPT [--torch-python PYTHON] [--compile]

Both sides are one process each, started once and kept; they take turns at blocks of training steps
(forward, backward, clipping, AdamW, a new batch each step), so that a machine whose speed drifts
slows both alike. nanoGPT's side is its README's CPU setting: eager torch, batch 12, context 64, 4
layers, 4 heads, width 128, no dropout; ours is configs/shakespeare_char.py with the same vocabulary.

Both sides take turns in two processes each: with the allocator as it is, and with the settings of glibc that
`lmjax train` chooses on a CPU (lmjax/cli/allocator.py). They make torch faster, too, so the last line compares the
better of both.
"""

import argparse
import os
import pathlib
import statistics
import sys

from machine import described
from turns import Side, ratio, serve, take_turns

BATCH, CONTEXT, VOCABULARY = 12, 64, 65


def nanogpt_worker(folder: str, compiled: bool) -> None:
    """Trains nanoGPT's model on random characters, a block of steps for each number on standard input."""
    sys.path.insert(0, folder)
    import torch
    from model import GPT, GPTConfig

    torch.manual_seed(0)
    config = GPTConfig(
        block_size=CONTEXT, vocab_size=VOCABULARY, n_layer=4, n_head=4, n_embd=128, dropout=0.0, bias=False
    )
    model = GPT(config)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    if compiled:
        model = torch.compile(model)
    text = torch.randint(VOCABULARY, (100_000,))

    def step() -> None:
        starts = torch.randint(len(text) - CONTEXT, (BATCH,))
        inputs = torch.stack([text[i : i + CONTEXT] for i in starts])
        targets = torch.stack([text[i + 1 : i + 1 + CONTEXT] for i in starts])
        _, loss = model(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    def steps(count: int) -> None:
        for _ in range(count):
            step()

    steps(3)
    serve(steps, facts={})


def lmjax_worker() -> None:
    """The same with our step, corruption and data transfer included."""
    import dataclasses

    import jax
    import numpy as np

    from lmjax.tokenizers.vocabulary import Vocabulary
    from lmjax.train.recipes import load_recipe
    from lmjax.train.setup import build_learner, resolve
    from lmjax.types import Rows

    vocabulary = Vocabulary(size=VOCABULARY, byte_length_V=np.ones(VOCABULARY, np.int32))
    recipe = pathlib.Path(__file__).parents[1] / "configs" / "shakespeare_char.py"
    config = resolve(load_recipe(recipe), vocabulary)
    assert (config.train.batch_size, config.train.sequence_length) == (BATCH, CONTEXT)
    learner = build_learner(dataclasses.replace(config), vocabulary, devices=jax.devices()[:1])
    text = np.random.default_rng(0).integers(0, VOCABULARY, 100_000).astype(np.int32)
    draw = np.random.default_rng(1)
    state = learner.init(0)

    def steps(count: int) -> None:
        nonlocal state
        metrics = None
        for _ in range(count):
            starts = draw.integers(0, len(text) - CONTEXT, BATCH)
            tokens_BT = np.stack([text[i : i + CONTEXT + 1] for i in starts])
            rows = jax.device_put(Rows(tokens_BT=tokens_BT), learner.row_sharding)
            state, new_metrics = learner.train_step(state, rows)
            if metrics is not None:
                jax.device_get(metrics)
            metrics = new_metrics
        jax.device_get(metrics)

    with jax.set_mesh(learner.mesh):
        steps(3)
        serve(steps, facts={})


def main() -> None:
    """Prints tokens a second of all sides and the ratio of the better ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", required=True, help="a clone of nanoGPT")
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter that has torch")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile nanoGPT's model, which needs a C++ compiler"
    )
    parser.add_argument("--blocks", type=int, default=15, help="turns each side gets")
    parser.add_argument("--steps", type=int, default=20, help="steps in a turn")
    parser.add_argument("--worker", choices=["nanogpt", "lmjax"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker == "lmjax":
        return lmjax_worker()
    if not (pathlib.Path(options.nanogpt) / "model.py").is_file():
        sys.exit(f"error: {options.nanogpt} is not a clone of nanoGPT: it has no model.py")
    if options.worker == "nanogpt":
        return nanogpt_worker(options.nanogpt, options.compile)

    from lmjax.cli.allocator import TUNABLES, wanted_tunables

    plain = {name: value for name, value in os.environ.items() if name != TUNABLES}
    tunables = wanted_tunables(plain | {"JAX_PLATFORMS": "cpu"})
    allocators = {"glibc as it is": {TUNABLES: ""}, "large blocks": {TUNABLES: tunables or ""}}
    compiled = ["--compile"] if options.compile else []
    commands = {
        "nanoGPT": [options.torch_python, __file__, "--worker", "nanogpt", "--nanogpt", options.nanogpt, *compiled],
        "lmjax": [sys.executable, __file__, "--worker", "lmjax", "--nanogpt", options.nanogpt],
    }
    sides = {
        (name, allocator): Side(command, environment).wait()
        for allocator, environment in allocators.items()
        for name, command in commands.items()
    }
    times = take_turns(sides, options.steps, rounds=options.blocks)
    for side in sides.values():
        side.close()
    tokens = options.steps * BATCH * CONTEXT
    print(described())
    print(f"{options.blocks} turns of {options.steps} steps each, batch {BATCH} x {CONTEXT} tokens; medians")
    for (name, allocator), values in times.items():
        how = f"{name} ({'torch.compile' if options.compile else 'torch, eager'})" if name == "nanoGPT" else name
        print(f"{how:<24} {allocator:<15} {tokens / statistics.median(values):>10,.0f} tokens a second")
    best = {
        name: min((values for side, values in times.items() if side[0] == name), key=statistics.median)
        for name in commands
    }
    print(f"lmjax / nanoGPT, the better of each {ratio(best['nanoGPT'], best['lmjax']):>10.2f}")


if __name__ == "__main__":
    main()
