"""`lmjax sample RUN --prompt TEXT`: continues a prompt with a run's model."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import tyro
from rich.console import Console

from lmjax.decode.logits import SamplingConfig
from lmjax.decode.sample import generate
from lmjax.train.run_folder import open_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleArguments:
    """Continue a prompt with a run's model."""

    run: tyro.conf.Positional[pathlib.Path]
    """The run folder."""
    prompt: str = "\n"
    """Text to continue; - reads it from standard input."""
    num_samples: int = 1
    """Continuations to draw."""
    max_new_tokens: int = 200
    """Most tokens to add to each."""
    sampling: tyro.conf.OmitArgPrefixes[SamplingConfig] = SamplingConfig()
    seed: int = 0
    """Of the random choices."""
    step: int | None = None
    """The checkpoint to use; the newest when unset."""

    def __post_init__(self):
        for name in ("num_samples", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = tyro.cli(SampleArguments, args=list(arguments), prog="lmjax sample")
    opened = open_run(options.run, step=options.step)
    text = sys.stdin.read() if options.prompt == "-" else options.prompt
    tokenizer, model = opened.tokenizer, opened.config.model
    prompt = tokenizer.encode(text).tolist()
    bos_id = tokenizer.vocabulary.bos_id
    if opened.config.data.add_bos and bos_id is not None:
        prompt = [bos_id, *prompt]
    continuations = generate(
        opened.learner.spec,
        opened.params,
        [prompt] * options.num_samples,
        vocabulary=tokenizer.vocabulary,
        max_new_tokens=options.max_new_tokens,
        sampling=options.sampling,
        max_length=model.max_length if model.positions == "learned" else None,
        attention=opened.config.objective.attention,
        seed=options.seed,
    )
    console = Console(highlight=False, soft_wrap=True)
    for number, continuation in enumerate(continuations):
        if options.num_samples > 1:
            console.print(f"--- {number + 1}", style="dim")
        console.print(text, style="bold", end="", markup=False)
        console.print(tokenizer.decode(continuation), markup=False)
