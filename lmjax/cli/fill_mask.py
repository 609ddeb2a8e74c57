"""`lmjax fill-mask RUN TEXT`: the tokens an encoder would put in the place of masks."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from lmjax import runs
from lmjax.cli.arguments import parse_arguments
from lmjax.cli.shown_text import given_texts
from lmjax.train.run_folder import BestOrStep


@dataclasses.dataclass(frozen=True, kw_only=True)
class FillMaskArguments:
    """Name the most likely tokens at each mask of a text, with their probabilities."""

    run: tyro.conf.Positional[pathlib.Path]
    """The run folder, or a Hugging Face folder."""
    text: tyro.conf.Positional[str | None] = None
    """A text with the tokenizer's mask token in it, such as <mask> or [MASK]; - reads it from standard input."""
    texts: pathlib.Path | None = None
    """A file of texts instead: a line each, or JSON lines (.jsonl) with a string or a field `text` each."""
    top: int = 5
    """Tokens to name for each mask."""
    format: Literal["table", "jsonl"] = "table"
    """Print tables, or a JSON object a line for each text."""
    step: BestOrStep = None
    """The checkpoint to use, a step or `best` (checkpoint.keep_best); the newest when unset."""

    def __post_init__(self):
        if (self.text is None) == (self.texts is None):
            raise ValueError("give a text, or --texts FILE, and not both")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(FillMaskArguments, arguments, command="fill-mask", runs=("run",))
    opened = runs.open(options.run, step=options.step)
    texts = given_texts(options.text, options.texts)
    console = Console(highlight=False, markup=False, emoji=False)
    for text, masks in zip(texts, opened.fill_mask(texts, top=options.top), strict=True):
        if options.format == "jsonl":
            named = [[dataclasses.asdict(candidate) for candidate in candidates] for candidates in masks]
            print(json.dumps({"text": text, "masks": named}, ensure_ascii=False))
            continue
        console.print(text)
        for number, candidates in enumerate(masks, start=1):
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            table.add_column(f"mask {number}" if len(masks) > 1 else "token")
            table.add_column("probability", justify="right")
            for candidate in candidates:
                table.add_row(repr(candidate.token)[1:-1], f"{candidate.probability:.4f}")
            console.print(table)
