"""Speed of writing: beside transformers' generate, and with a model's own further heads.

    python benchmarks/decode.py [--torch-python PYTHON] [--rounds 7] [--new 64]
    python benchmarks/decode.py --part long
    python benchmarks/decode.py --part heads --run runs/multi_token_small

`transformers`: a model of GPT-2's shape (124M parameters, random weights, float32) writes `--new` tokens after
a prompt of 32, at batch 1 and 8, greedy and sampled (top-k 50). Each side is a process of its own, started once; they
take turns, so that whatever else the machine does falls on both. Rates are medians of the rounds, and the ratio is the
median of the rounds' ratios.

`long`: memory of the process while one text of 2,000 tokens is written, by a smaller model.

`heads`: greedy text with and without `--self-speculative`, after beginnings of the run's own kind of text: tokens for
each pass of the model, and the ratio of tokens a second. `lmjax train configs/small/multi_token_small.py` makes one.
"""

import argparse
import pathlib
import resource
import statistics
import sys
import time

from machine import described
from turns import Side, ratio, serve, take_turns

WIDTH, LAYERS, HEADS, VOCABULARY, POSITIONS, PROMPT = 768, 12, 12, 50257, 1024, 32
PROMPTS = ["import os\nimport sys\n", "def __init__(self", "    def test_", "        self.assert"]
CASES = [(batch, temperature) for batch in (1, 8) for temperature in (0.0, 1.0)]


def transformers_worker(new: int) -> None:
    """Writes with transformers, once for each line of standard input."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, vocab_size=VOCABULARY, n_positions=POSITIONS
    )
    model = transformers.GPT2LMHeadModel(config).eval()

    def write(batch: int, temperature: float) -> None:
        ids = torch.randint(VOCABULARY, (batch, PROMPT))
        sampled = {"do_sample": True, "temperature": temperature, "top_k": 50} if temperature else {"do_sample": False}
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                pad_token_id=VOCABULARY - 1,
                **sampled,
            )
        assert out.shape == (batch, PROMPT + new)

    answer(write, f"transformers {transformers.__version__}, torch {torch.__version__}")


def lmjax_worker(new: int) -> None:
    """Writes with lmjax, once for each line of standard input."""
    import jax
    import numpy as np

    from lmjax.decode.logits import SamplingConfig
    from lmjax.decode.sample import generate
    from lmjax.tokenizers.vocabulary import Vocabulary

    spec, params = random_model(LAYERS, WIDTH, VOCABULARY, POSITIONS)
    vocabulary = Vocabulary(size=VOCABULARY, byte_length_V=np.ones(VOCABULARY, np.int32))
    draw = np.random.default_rng(0)

    def write(batch: int, temperature: float) -> None:
        sampling = SamplingConfig(temperature=temperature, top_k=50 if temperature else None)
        prompts = draw.integers(0, VOCABULARY, (batch, PROMPT)).tolist()
        generate(spec, params, prompts, vocabulary=vocabulary, max_new_tokens=new, sampling=sampling)

    answer(write, f"jax {jax.__version__}")


def random_model(num_layers: int, width: int, vocab_size: int, positions: int):
    """The spec and random parameters of a model of GPT-2's kind."""
    import jax
    from flax import nnx

    from lmjax.models.config import ModelConfig
    from lmjax.models.parameters import module_spec
    from lmjax.models.transformer import Transformer

    model = ModelConfig(
        vocab_size=vocab_size,
        width=width,
        num_layers=num_layers,
        num_heads=width // 64,
        positions="learned",
        max_length=positions,
        norm="layernorm",
        activation="gelu_tanh",
        bias=True,
    )
    spec = module_spec(lambda key: Transformer(model, rngs=nnx.Rngs(params=key)))
    return spec, jax.jit(spec.init)(jax.random.key(0))


def answer(write, versions: str) -> None:
    """Serves the cases that are asked for; the first time of each case is not counted."""
    for case in CASES:
        write(*case)
    serve(lambda case: write(*case), facts={"versions": versions})


def beside_transformers(options: argparse.Namespace) -> None:
    """Prints tokens a second of both sides and their ratio."""
    sides = {
        name: Side([python, __file__, "--worker", name, "--new", str(options.new)]).wait()
        for name, python in (("transformers", options.torch_python), ("lmjax", sys.executable))
    }
    times: dict = {case: {name: [] for name in sides} for case in CASES}
    for _ in range(options.rounds):
        for case in CASES:
            for name, seconds in take_turns(sides, case, rounds=1).items():
                times[case][name] += seconds
    for side in sides.values():
        side.close()
    print(f"{described()}; {'; '.join(side.facts['versions'] for side in sides.values())}")
    print(f"GPT-2 124M, float32, {PROMPT} + {options.new} tokens, medians of {options.rounds} turns, tokens a second")
    for (batch, temperature), by_name in times.items():
        rates = {name: batch * options.new / statistics.median(values) for name, values in by_name.items()}
        how = "sampled" if temperature else "greedy"
        print(
            f"batch {batch}, {how:<8} transformers {rates['transformers']:8.1f}   lmjax {rates['lmjax']:8.1f}   "
            f"ratio {ratio(by_name['transformers'], by_name['lmjax']):5.2f}"
        )


def long_text(options: argparse.Namespace) -> None:
    """Prints the memory of the process while a long text is written."""
    import numpy as np

    from lmjax.decode.logits import SamplingConfig
    from lmjax.decode.sample import stream
    from lmjax.tokenizers.vocabulary import Vocabulary

    del options  # its sizes are fixed
    spec, params = random_model(4, 256, 8192, 2048)
    vocabulary = Vocabulary(size=8192, byte_length_V=np.ones(8192, np.int32))
    pieces = stream(
        spec, params, [[1]], vocabulary=vocabulary, max_new_tokens=2000, sampling=SamplingConfig(), every=250
    )
    print("tokens   resident MiB")
    for number, _ in enumerate(pieces, start=1):
        print(f"{250 * number:6}   {resident():8.1f}")
    print(f"peak     {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:8.1f}")


def resident() -> float:
    """The memory of this process, in MiB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def own_heads(options: argparse.Namespace) -> None:
    """Prints what a model's further heads gain."""
    from lmjax import runs
    from lmjax.decode.logits import SamplingConfig

    run = runs.open(options.run)
    greedy = {"max_new_tokens": options.new, "sampling": SamplingConfig(temperature=0.0)}
    print(f"{described()}; {options.run}, {options.new} tokens, medians of {options.rounds} turns, tokens a second")
    for prompt in options.prompts:
        speculation = run.speculation()
        ways: dict = {"plain": {}, "heads": {"speculation": speculation}}
        texts = {name: run.sample(prompt, **greedy, **way) for name, way in ways.items()}
        if texts["plain"] != texts["heads"]:
            print(f"{prompt!r}: the texts differ by the rounding of their logits")
        times: dict = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, way in ways.items():
                begin = time.perf_counter()
                run.sample(prompt, **greedy, **way)
                times[name].append(time.perf_counter() - begin)
        print(
            f"{prompt!r:<28} tokens a pass {1 + speculation.tally.kept_per_pass:5.2f}   "
            f"plain {options.new / statistics.median(times['plain']):8.1f}   "
            f"heads {options.new / statistics.median(times['heads']):8.1f}   "
            f"ratio {ratio(times['plain'], times['heads']):5.2f}"
        )


def main() -> None:
    """Runs one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["transformers", "long", "heads"], default="transformers")
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter that has torch and transformers")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--new", type=int, default=64, help="tokens to write")
    parser.add_argument("--run", default="runs/multi_token_small", help="heads: a run of a model with further heads")
    parser.add_argument("--prompts", nargs="*", default=PROMPTS, help="heads: beginnings of texts the run can predict")
    parser.add_argument("--worker", choices=["transformers", "lmjax"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        {"transformers": transformers_worker, "lmjax": lmjax_worker}[options.worker](options.new)
    else:
        {"transformers": beside_transformers, "long": long_text, "heads": own_heads}[options.part](options)


if __name__ == "__main__":
    main()
