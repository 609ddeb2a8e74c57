"""`lmjax sample RUN --prompt TEXT`: writes text with a run's model, or with a Hugging Face model."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import tyro

from lmjax import runs
from lmjax.cli.arguments import parse_arguments
from lmjax.cli.chat import converse
from lmjax.cli.shown_text import Shown, read_input, read_texts
from lmjax.decode.beam import BeamConfig
from lmjax.decode.contrast import Amateur
from lmjax.decode.contrastive_search import ContrastiveSearch
from lmjax.decode.logits import SamplingConfig
from lmjax.decode.speculate import Speculation
from lmjax.decode.unmask import Order
from lmjax.objectives.masked_diffusion import MaskedDiffusion
from lmjax.objectives.parts.naming_tokens import check_names_tokens
from lmjax.runs.chat import Chat
from lmjax.runs.request import Request
from lmjax.runs.writing import Piece, stream_continuations, stream_texts
from lmjax.train.components import paired
from lmjax.train.run_folder import BestOrStep

Format = Literal["text", "jsonl"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleArguments:
    """Continue prompts with a run's model; one that has an encoder reads each prompt with it, and answers.

    Text is printed as it is made. Tokens are drawn at random, or searched for with --beams, --candidates (contrastive
    search) or --amateur (contrastive decoding).
    """

    run: tyro.conf.Positional[pathlib.Path]
    """The run folder, or a Hugging Face folder."""
    prompt: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: a new line)")] = "\n"
    """Text to continue; - reads it from standard input, "" begins a document. In what an encoder or a diffusion model
    reads, the names of special tokens, such as <extra_id_0> or <mask>, are those tokens."""
    prompts: pathlib.Path | None = None
    """A file of prompts to continue instead: a line each, or JSON lines (.jsonl) with a string or a field `prompt` or
    `text` each."""
    prefix: str | None = None
    """Fill in the middle: the text before the gap, with --suffix."""
    suffix: str | None = None
    """Fill in the middle: the text after the gap."""
    num_samples: int = 1
    """Continuations of each prompt."""
    max_new_tokens: int | None = None
    """Most tokens to add to each; when unset 200, or what the model's learned positions leave."""
    stop: tuple[str, ...] = ()
    """Strings that end a text; they are not printed."""
    sampling: tyro.conf.OmitArgPrefixes[SamplingConfig] = dataclasses.field(default_factory=SamplingConfig)
    beams: int | None = None
    """Search for the most likely text with so many beams."""
    length_penalty: float = 1.0
    """Beams: a text's score is its log-probability over its number of new tokens to this power."""
    early_stop: bool = False
    """Beams: stop once as many texts have ended as there are beams."""
    candidates: int | None = None
    """Contrastive search: choose among so many tokens the one that is likely and repeats least."""
    degeneration: float = 0.6
    """Contrastive search: the weight of the similarity to what was said, from 0 to 1."""
    amateur: pathlib.Path | None = None
    """Contrastive decoding: a weaker run whose preferences are avoided."""
    plausibility: float = 0.1
    """Contrastive decoding: choose tokens at least this many times as likely as the likeliest."""
    amateur_temperature: float = 1.0
    """Contrastive decoding: what the weaker run's logits are divided by."""
    draft: pathlib.Path | None = None
    """Speculative decoding: a smaller run that proposes tokens. The text is distributed as without it."""
    self_speculative: bool = False
    """Speculative decoding: the further heads of the run's own model propose tokens."""
    draft_length: int | None = None
    """Speculative decoding: tokens to propose at a time; when unset 4, or one of each head."""
    chat: bool = False
    """Talk with the model: each line of standard input is a message, and the answer is printed. Conversations have the
    form of the chat template that the model was trained with; without one, messages and answers follow each other as
    one text."""
    system: str | None = None
    """Chat: the system message, which says how to answer."""
    unmask_steps: int = 64
    """Diffusion models: passes in which the masks are replaced."""
    order: Order = "random"
    """Diffusion models: which masks are replaced first, any, or those the model is surest of."""
    batch_size: int = 32
    """Texts to write at the same time."""
    format: Format = "text"
    """Print text as it is made, or a JSON object a line with the fields prompt and text."""
    seed: int = 0
    """Of the random choices; a prompt's text is the same whatever other prompts there are."""
    step: BestOrStep = None
    """The checkpoint to use, a step or `best` (checkpoint.keep_best); the newest when unset."""

    def __post_init__(self):
        if (self.prefix is None) != (self.suffix is None):
            missing = "suffix" if self.suffix is None else "prefix"
            raise ValueError(f"--{missing}: to fill in the middle give --prefix and --suffix, one of them may be empty")
        if self.prompts is not None and self.prefix is not None:
            raise ValueError("--prompts continues text, --prefix and --suffix fill in the middle: give one of them")
        for name, needed, default in (
            ("length_penalty", "beams", 1.0),
            ("early_stop", "beams", False),
            ("degeneration", "candidates", 0.6),
            ("plausibility", "amateur", 0.1),
            ("amateur_temperature", "amateur", 1.0),
        ):
            if getattr(self, name) != default and getattr(self, needed) is None:
                raise ValueError(f"{name}={getattr(self, name)}: has a meaning with --{needed} only: set that, too")
        if self.draft is not None and self.self_speculative:
            raise ValueError("--draft and --self-speculative both propose tokens: give one of them")
        if self.draft_length is not None and self.draft is None and not self.self_speculative:
            raise ValueError(f"draft_length={self.draft_length}: has a meaning with --draft or --self-speculative only")
        if self.system is not None and not self.chat:
            raise ValueError("--system has a meaning with --chat only: set that, too")
        if self.chat:
            given = {
                "prompt": self.prompt != "\n",
                "prompts": self.prompts is not None,
                "prefix": self.prefix is not None,
                "num-samples": self.num_samples != 1,
                "format": self.format != "text",
            }
            if others := [f"--{name}" for name, is_given in given.items() if is_given]:
                raise ValueError(f"--chat reads messages from standard input: leave out {others[0]}")
        self.request(None, None)

    def request(self, amateur: Amateur | None, speculation: Speculation | None) -> Request:
        """Returns the options as the library's record of a request.

        Raises:
          ValueError: an option is impossible.
        """
        return Request(
            num_samples=self.num_samples,
            max_new_tokens=self.max_new_tokens,
            sampling=self.sampling,
            beam=None
            if self.beams is None
            else BeamConfig(beams=self.beams, length_penalty=self.length_penalty, early_stop=self.early_stop),
            contrastive=None
            if self.candidates is None
            else ContrastiveSearch(candidates=self.candidates, degeneration=self.degeneration),
            amateur=amateur,
            speculation=speculation,
            stop=self.stop,
            batch_size=self.batch_size,
            seed=self.seed,
            unmask_steps=self.unmask_steps,
            order=self.order,
        )


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(SampleArguments, arguments, command="sample", runs=("run", "amateur", "draft"))
    opened = runs.open(options.run, step=options.step)
    # Before the prompt is shown.
    check_names_tokens(opened.config.objective)
    speculation = _speculation(opened, options)
    request = options.request(_amateur(opened, options), speculation)
    if options.chat:
        converse(Chat(opened, request, system=options.system))
    else:
        _write(opened, request, options)
    if speculation is not None and speculation.tally.passes:
        kept = speculation.tally.kept_per_pass
        print(
            f"speculation: a pass of the model kept {kept:.2f} of {speculation.length} proposed tokens and added one",
            file=sys.stderr,
        )


def _write(opened: runs.Run, request: Request, options: SampleArguments) -> None:
    """Writes texts and prints them."""
    prompts = _prompts(options)
    if options.prefix is not None and options.suffix is not None:
        pieces = stream_continuations(opened, [opened.middle_prompt(options.prefix, options.suffix)], request)
    else:
        pieces = stream_texts(opened, prompts, request)
    if options.format == "jsonl":
        _print_objects(prompts, pieces, options)
        return
    # A continuation is shown after its prompt. An answer, and a text with its masks filled in, are shown alone.
    stands_alone = paired(opened.config.objective) or isinstance(opened.config.objective, MaskedDiffusion)
    before = ["" if stands_alone else prompt for prompt in prompts for _ in range(options.num_samples)]
    after = options.suffix or ""
    Shown(before, after=after).print(pieces)


def _amateur(opened: runs.Run, options: SampleArguments) -> Amateur | None:
    if options.amateur is None:
        return None
    return opened.amateur(
        runs.open(options.amateur), plausibility=options.plausibility, temperature=options.amateur_temperature
    )


def _speculation(opened: runs.Run, options: SampleArguments) -> Speculation | None:
    if options.draft is None and not options.self_speculative:
        return None
    other = None if options.draft is None else runs.open(options.draft)
    return opened.speculation(other, length=options.draft_length)


def _prompts(options: SampleArguments) -> list[str]:
    if options.prompts is not None:
        return read_texts(options.prompts, fields=("prompt", "text"), what="prompt")
    if options.prefix is not None:
        return [options.prefix]
    return [read_input(options.prompt)]


def _print_objects(prompts: Sequence[str], pieces: Iterator[Piece], options: SampleArguments) -> None:
    """Prints a JSON object for each text, in order, as soon as the text and all texts before it have ended."""
    texts: dict[int, str] = {}
    ended: set[int] = set()
    following = 0
    for piece in pieces:
        texts[piece.number] = texts.get(piece.number, "") + piece.text
        if piece.ended:
            ended.add(piece.number)
        while following in ended:
            content = {"prompt": prompts[following // options.num_samples], "text": texts.pop(following)}
            if options.suffix is not None:
                content["suffix"] = options.suffix
            print(json.dumps(content, ensure_ascii=False), flush=True)
            following += 1
