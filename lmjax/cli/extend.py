"""`lmjax extend RUN NEW --tokens FILE`: a run's model and tokenizer with more tokens, to go on training from."""

import dataclasses
import pathlib
from collections.abc import Sequence

import tyro

from lmjax import runs
from lmjax.cli.arguments import parse_arguments
from lmjax.train.run_folder import TOKENIZER, BestOrStep


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtendArguments:
    """Make a run of another's newest weights whose tokenizer has more tokens, each begun as the mean of its pieces."""

    run: tyro.conf.Positional[pathlib.Path]
    """The run folder to begin with."""
    new: tyro.conf.Positional[pathlib.Path]
    """The run folder to make."""
    tokens: pathlib.Path
    """A text file with a new token a line; spaces at a line's beginning are the token's."""
    step: BestOrStep = None
    """The checkpoint to use, a step or `best` (checkpoint.keep_best); the newest when unset."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(ExtendArguments, arguments, command="extend", runs=("run",))
    words = [line for line in _lines(options.tokens) if line.strip()]
    if not words:
        raise ValueError(f"{options.tokens} has no tokens: write one a line")
    opened = runs.open(options.run, step=options.step)
    extended = runs.extend(opened, options.new, words, named=str(options.tokens))
    before, after = opened.config.model.vocab_size, extended.config.model.vocab_size
    print(f"{len(words)} tokens added: {extended.tokenizer.vocabulary.size} ids, tables of {before} -> {after} rows")
    print(f"go on with: lmjax train RECIPE --train.init-from {options.new} --tokenizer.path {options.new / TOKENIZER}")


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (at byte {error.start}): convert it") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}: name a text file with a token a line") from None
