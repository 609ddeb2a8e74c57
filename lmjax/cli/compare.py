"""`lmjax compare BEFORE AFTER --texts OLD NEW`: what continued training kept of old text and gained on new."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import tyro
from rich.console import Console

from lmjax import runs
from lmjax.cli.arguments import parse_arguments
from lmjax.evaluate.retention import compare, table


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareArguments:
    """Evaluate two runs on the same texts, each with its own tokenizer; the last line is one JSON object."""

    before: tyro.conf.Positional[pathlib.Path]
    """The run that was continued."""
    after: tyro.conf.Positional[pathlib.Path]
    """The run that began with its weights."""
    texts: tuple[str, ...]
    """Texts to evaluate on, all of each: files, folders or globs, as data.path."""

    def __post_init__(self):
        if not self.texts:
            raise ValueError("texts: name one or more files, folders or globs")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(CompareArguments, arguments, command="compare", runs=("before", "after"))
    folders = (options.before, options.after)
    comparisons = compare(runs.open(options.before), runs.open(options.after), options.texts, folders=folders)
    Console(highlight=False).print(table(comparisons))
    print(json.dumps({one.text: {**dataclasses.asdict(one), "retained": one.retained} for one in comparisons}))
