"""`lmjax sample RUN --prompt TEXT`: continues a prompt with a run's model."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from rich.console import Console

from lmjax.decode.logits import SamplingConfig
from lmjax.decode.sample import generate
from lmjax.train.run_folder import Run, open_run

NEW_TOKENS = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleArguments:
    """Continue a prompt with a run's model."""

    run: tyro.conf.Positional[pathlib.Path]
    """The run folder."""
    prompt: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: a new line)")] = "\n"
    """Text to continue; - reads it from standard input, "" begins a document."""
    num_samples: int = 1
    """Continuations to draw."""
    max_new_tokens: int | None = None
    """Most tokens to add to each; when unset 200, or what the model's learned positions leave."""
    sampling: tyro.conf.OmitArgPrefixes[SamplingConfig] = dataclasses.field(default_factory=SamplingConfig)
    seed: int = 0
    """Of the random choices."""
    step: int | None = None
    """The checkpoint to use; the newest when unset."""

    def __post_init__(self):
        for name in ("num_samples", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = tyro.cli(SampleArguments, args=list(arguments), prog="lmjax sample")
    opened = open_run(options.run, step=options.step)
    text = _text(options.prompt)
    prompt = _prompt_ids(opened, text)
    model = opened.config.model
    max_length = model.max_length if model.positions == "learned" else None
    left = NEW_TOKENS if max_length is None else min(NEW_TOKENS, max(max_length - len(prompt), 1))
    continuations = generate(
        opened.learner.spec,
        opened.params,
        [prompt] * options.num_samples,
        vocabulary=opened.tokenizer.vocabulary,
        max_new_tokens=options.max_new_tokens or left,
        sampling=options.sampling,
        max_length=max_length,
        attention=opened.config.objective.attention,
        seed=options.seed,
    )
    for number, continuation in enumerate(continuations, start=1):
        title = f"--- {number}" if options.num_samples > 1 else None
        _show(title, text, opened.tokenizer.decode(continuation))


def _text(prompt: str) -> str:
    text = sys.stdin.buffer.read().decode(errors="surrogateescape") if prompt == "-" else prompt
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the prompt is not UTF-8 (at character {error.start}): convert it") from None
    return text


def _prompt_ids(opened: Run, text: str) -> list[int]:
    """The prompt as the model has met the beginnings of its documents, so far as the data tell."""
    vocabulary, data = opened.tokenizer.vocabulary, opened.config.data
    ids = opened.tokenizer.encode(text).tolist()
    if data.add_bos:
        return [vocabulary.require("bos", needed_by="data.add_bos=True"), *ids]
    if not ids and data.add_eos and data.packing == "windows":
        # In an unbroken stream a document follows the end of the one before.
        return [vocabulary.require("eos", needed_by="data.add_eos=True")]
    if not ids:
        raise ValueError('--prompt "": this run\'s documents begin with no special token: give some text')
    return ids


def _show(title: str | None, prompt: str, continuation: str) -> None:
    if not sys.stdout.isatty():
        print(*([title] if title else []), f"{prompt}{continuation}", sep="\n")
        return
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    if title:
        console.print(title, style="dim")
    console.print(prompt, style="bold", end="")
    console.print(continuation)
