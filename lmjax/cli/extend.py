"""`lmjax extend RUN NEW --tokens FILE`: a run's model and tokenizer with more tokens, to go on training from."""

import dataclasses
import pathlib
from collections.abc import Sequence

import tyro

from lmjax.cli.arguments import parse_arguments
from lmjax.models.vocabulary import extend_vocabulary
from lmjax.naming import naming
from lmjax.parallel.folder_lock import fresh_folder
from lmjax.tokenizers import TokenizerConfig
from lmjax.tokenizers.extend import extend_tokenizer
from lmjax.train.new_run import make_run
from lmjax.train.published import hand_on_published
from lmjax.train.run_folder import TOKENIZER, BestOrStep, open_run


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
    options = parse_arguments(ExtendArguments, arguments, command="extend")
    with fresh_folder(options.new, "is being made"):
        _extend(options)


def _extend(options: ExtendArguments) -> None:
    words = [line for line in _lines(options.tokens) if line.strip()]
    if not words:
        raise ValueError(f"{options.tokens} has no tokens: write one a line")
    opened = open_run(options.run, step=options.step)
    with naming(options.tokens):
        tokenizer, pieces = extend_tokenizer(opened.tokenizer, words)
    model = opened.config.model
    size = max(model.vocab_size, -(-tokenizer.vocabulary.size // model.pad_vocab_to) * model.pad_vocab_to)
    params = extend_vocabulary(opened.params, opened.learner.spec.axes, pieces=pieces, vocab_size=size)
    config = dataclasses.replace(
        opened.config,
        name=options.new.name,
        folder=str(options.new),
        model=dataclasses.replace(model, vocab_size=size),
        tokenizer=TokenizerConfig(path=str(options.new / TOKENIZER)),
    )
    hand_on_published(options.run, options.new)
    make_run(options.new, config, tokenizer, params)
    print(f"{len(words)} tokens added: {tokenizer.vocabulary.size} ids, tables of {model.vocab_size} -> {size} rows")
    print(f"go on with: lmjax train RECIPE --train.init-from {options.new} --tokenizer.path {options.new / TOKENIZER}")


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (at byte {error.start}): convert it") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}: name a text file with a token a line") from None
