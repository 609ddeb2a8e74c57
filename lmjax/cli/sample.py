"""`lmjax sample RUN --prompt TEXT`: continues a prompt with a run's model, or writes what an encoder read."""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from rich.console import Console

from lmjax.cli.arguments import parse_arguments
from lmjax.decode.logits import SamplingConfig
from lmjax.decode.sample import generate
from lmjax.decode.unmask import Order, unmask
from lmjax.objectives.masked_diffusion import MaskedDiffusion
from lmjax.objectives.parts.encoder_decoder import EncoderDecoderObjective
from lmjax.tokenizers import Tokenizer
from lmjax.train.components import paired
from lmjax.train.run_folder import BestOrStep, Run, open_run

NEW_TOKENS = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleArguments:
    """Continue a prompt with a run's model; one that has an encoder reads the prompt with it, and answers."""

    run: tyro.conf.Positional[pathlib.Path]
    """The run folder."""
    prompt: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: a new line)")] = "\n"
    """Text to continue; - reads it from standard input, "" begins a document. In what an encoder or a diffusion model
    reads, the names of special tokens, such as <extra_id_0> or <mask>, are those tokens."""
    num_samples: int = 1
    """Continuations to draw."""
    max_new_tokens: int | None = None
    """Most tokens to add to each; when unset 200, or what the model's learned positions leave."""
    sampling: tyro.conf.OmitArgPrefixes[SamplingConfig] = dataclasses.field(default_factory=SamplingConfig)
    unmask_steps: int = 64
    """Diffusion models: passes in which the masks are replaced."""
    order: Order = "random"
    """Diffusion models: which masks are replaced first, any, or those the model is surest of."""
    seed: int = 0
    """Of the random choices."""
    step: BestOrStep = None
    """The checkpoint to use, a step or `best` (checkpoint.keep_best); the newest when unset."""

    def __post_init__(self):
        for name in ("num_samples", "max_new_tokens", "unmask_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}: must be from 0 to {2**32 - 1}")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(SampleArguments, arguments, command="sample")
    opened = open_run(options.run, step=options.step)
    text = _text(options.prompt)
    if isinstance(opened.config.objective, MaskedDiffusion):
        _fill_in(options, opened, text, opened.config.objective)
    else:
        _continue(options, opened, text)


def _fill_in(options: SampleArguments, opened: Run, text: str, objective: MaskedDiffusion) -> None:
    """Shows rows that begin with the prompt and had masks for the rest."""
    vocabulary, model = opened.tokenizer.vocabulary, opened.config.model
    prompt = _ids_with_names(opened, text)
    left = max(opened.config.train.sequence_length - len(prompt), 1)
    length = len(prompt) + (options.max_new_tokens or min(NEW_TOKENS, left))
    if model.positions == "learned" and length > model.max_length:
        raise ValueError(
            f"prompt and new tokens make {length} positions and the model has learned {model.max_length}: "
            f"shorten the prompt or max_new_tokens"
        )
    rows = unmask(
        opened.learner.spec,
        opened.params,
        [prompt] * options.num_samples,
        objective=objective,
        vocabulary=vocabulary,
        length=length,
        num_steps=options.unmask_steps,
        sampling=options.sampling,
        order=options.order,
        seed=options.seed,
    )
    for number, row in enumerate(rows, start=1):
        _show(f"--- {number}" if options.num_samples > 1 else None, "", opened.tokenizer.decode(row))


def _continue(options: SampleArguments, opened: Run, text: str) -> None:
    """Shows the prompt with what a model writes after it, or what a decoder writes of it."""
    model, vocabulary, pair = opened.config.model, opened.tokenizer.vocabulary, paired(opened.config.objective)
    prompt = _prompt_ids(opened, text) if pair is None else _source_ids(opened, text, pair)
    before = len(prompt) if pair is None else 1
    max_length = model.max_length if model.positions == "learned" else None
    left = NEW_TOKENS if max_length is None else min(NEW_TOKENS, max(max_length - before, 1))
    continuations = generate(
        opened.learner.spec,
        opened.params,
        [prompt] * options.num_samples,
        vocabulary=vocabulary,
        max_new_tokens=options.max_new_tokens or left,
        sampling=options.sampling,
        max_length=max_length,
        attention=opened.config.objective.traits.attention,
        start_id=None if pair is None else pair.start_id(vocabulary),
        seed=options.seed,
    )
    for number, continuation in enumerate(continuations, start=1):
        title = f"--- {number}" if options.num_samples > 1 else None
        if pair is None:
            _show(title, text, _shown_after(opened.tokenizer, text, prompt, continuation))
        else:
            written = [token_id for token_id in continuation if token_id != vocabulary.bos_id]
            _show(title, "", opened.tokenizer.decode(written, skip_special=False))


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


def _source_ids(opened: Run, text: str, objective: EncoderDecoderObjective) -> list[int]:
    """The prompt as the encoder has met documents, special tokens written by name among its text."""
    vocabulary, data = opened.tokenizer.vocabulary, opened.config.data
    ids = [vocabulary.require("bos", needed_by="data.add_bos=True")] if data.add_bos else []
    ids += _ids_with_names(opened, text)
    if objective.ends_input or (data.add_eos and data.packing != "windows"):
        ids.append(vocabulary.require("eos", needed_by=type(objective).__name__))
    return ids


def _ids_with_names(opened: Run, text: str) -> list[int]:
    """Token ids of a text in which names of special tokens are those tokens."""
    tokenizer = opened.tokenizer
    names = sorted(tokenizer.special_tokens, key=len, reverse=True)
    ids: list[int] = []
    before: str | None = None
    for number, piece in enumerate(re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]):
        # What was split at comes at every second place.
        if number % 2:
            ids.append(tokenizer.special_tokens[piece])
            before = before or ""
        elif piece:
            ids += tokenizer.encode(piece, after=before).tolist()
            before = (before or "") + piece
    return ids


def _shown_after(tokenizer: Tokenizer, text: str, prompt: Sequence[int], continuation: Sequence[int]) -> str:
    """The continuation as it goes on from the prompt's text, whose last space the tokenizer may have forgotten."""
    shown = tokenizer.decode_after(prompt, continuation)
    forgotten = text[-1:].isspace() and not tokenizer.decode(prompt)[-1:].isspace()
    return shown.removeprefix(" ") if forgotten else shown


def _show(title: str | None, prompt: str, continuation: str) -> None:
    if not sys.stdout.isatty():
        print(*([title] if title else []), f"{prompt}{continuation}", sep="\n")
        return
    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    if title:
        console.print(title, style="dim")
    console.print(prompt, style="bold", end="")
    console.print(continuation)
