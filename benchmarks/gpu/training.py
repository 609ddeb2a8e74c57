"""Training steps on a GPU beside other libraries: tokens a second, MFU, and how many times as fast ours is.

`decoders`: GPT-2 of 124M at 1,024 tokens beside nanoGPT's model, and a Llama of 1.3B at 2,048 beside transformers',
both with torch.compile. `encoders`: BERT base and ModernBERT base on masked tokens beside transformers with SDPA.
`low_precision`: the Llama with products of 8 bits beside bfloat16.
"""

import argparse
import dataclasses
import pathlib
import statistics
import sys
from collections.abc import Iterator

from report import add
from steps import OURS, Contender, Result, Shape, ours, race

PART = {"decoders": "decoders", "encoders": "masked encoders", "low_precision": "products of 8 bits"}
BENCHMARKS = str(pathlib.Path(__file__).parents[1])

GPT2 = Shape(family="gpt", layers=12, width=768, heads=12, vocabulary=50_304, length=1024, batch=32, dtype="bfloat16")
LLAMA = Shape(
    family="llama", layers=24, width=2048, heads=16, vocabulary=32_768, length=2048, batch=8, dtype="bfloat16"
)
BERT = Shape(family="bert", layers=12, width=768, heads=12, vocabulary=30_528, length=512, batch=64, dtype="bfloat16")
MODERN = dataclasses.replace(BERT, family="modernbert", layers=22, feedforward=1152, vocabulary=50_368, batch=32)
TINY = {"layers": 1, "width": 32, "heads": 2, "vocabulary": 128, "length": 16, "batch": 2, "feedforward": None}

DEEP = ("--scan", "--remat", "products")
"""How lmjax computes the deep model: its activations would not fit beside it, and unrolled it compiles for minutes."""


@dataclasses.dataclass(frozen=True)
class Race:
    """A comparison: its name, its shape and its sides."""

    name: str
    shape: Shape
    sides: list[Contender]


def races(part: str, torch_python: str, nanogpt: str | None) -> Iterator[Race]:
    """Yields the comparisons of a part, the most telling first."""

    def torch(name: str, *options: str) -> Contender:
        return Contender(name, torch_python, "steps_torch.py", options, {"PYTHONPATH": BENCHMARKS})

    if part == "decoders":
        theirs = [torch("nanoGPT, torch.compile", "--nanogpt", nanogpt, "--compile")] if nanogpt else []
        yield Race("GPT-2 124M, T 1024", GPT2, [ours(), *theirs])
        llama = torch("transformers, torch.compile", "--compile")
        yield Race("Llama 1.3B, T 2048", LLAMA, [ours(OURS, *DEEP), llama])
    elif part == "encoders":
        yield Race("BERT base, T 512", BERT, [ours(), torch("transformers, torch.compile", "--compile")])
        yield Race("ModernBERT base, T 512", MODERN, [ours(), torch("transformers, torch.compile", "--compile")])
    else:
        fp8 = ours("lmjax, fp8", *DEEP, "--low-precision", "fp8")
        yield Race("Llama 1.3B, T 2048, fp8", LLAMA, [ours(OURS, *DEEP), fp8])


def report(output: str, case: str, part: str, result: Result, own: Result | None) -> None:
    """Adds a result; a model's FLOPs are those that lmjax counts for it, on all sides."""
    if result.missing is not None:
        return add(output, part=part, case=case, side=result.side, missing=result.missing)
    facts = {} if own is None else own.facts
    peak, flops = facts.get("peak_flops"), facts.get("flops_per_token", 0)
    is_own = result.side.startswith(f"{OURS},")
    add(
        output,
        part=part,
        case=case,
        side=result.side,
        tokens_per_second=result.tokens_per_second,
        ms=1e3 * statistics.median(result.seconds),
        mfu=None if peak is None else flops * result.tokens_per_second / peak,
        lmjax_is=None if is_own else result.ratio,
        of_bfloat16=1 / result.ratio if is_own and result.ratio else None,
        memory_gib=result.peak_bytes / 2**30,
        parameters=result.facts["parameters"],
        versions=result.facts["versions"],
    )


def main() -> None:
    """Measures one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PART, required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--nanogpt")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    rounds, steps = (1, 1) if options.tiny else (5, 4)
    ran = True
    if options.part == "decoders" and options.nanogpt is None:
        add(options.output, part=PART[options.part], case="GPT-2 124M, T 1024", side="nanoGPT", missing="no --nanogpt")
    for one in races(options.part, options.torch_python, options.nanogpt):
        shape = dataclasses.replace(one.shape, **TINY) if options.tiny else one.shape
        own = None
        # One after the other: the memory may hold only one of them, and what is found first is there when time is up.
        for result in race(shape, one.sides, rounds=rounds, steps=steps, together=False):
            own = result if result.side == OURS and result.missing is None else own
            report(options.output, one.name, PART[options.part], result, own)
        ran = ran and own is not None
    raise SystemExit(0 if ran else 1)


if __name__ == "__main__":
    main()
