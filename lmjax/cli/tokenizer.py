"""`lmjax tokenizer [train] RECIPE|FOLDER|FILE [--text TEXT]`: trains a recipe's tokenizer, shows how one cuts a text.

`lmjax tokenizer inspect` measures how tokenizers compress texts, `lmjax tokenizer extend` is `lmjax extend`.
"""

import argparse
import pathlib
from collections.abc import Sequence

from lmjax.cli import extend, inspect_tokenizer
from lmjax.cli.inspect_tokenizer import saved_tokenizer
from lmjax.cli.recipe import parse_recipe
from lmjax.parallel.paths import refuse_address
from lmjax.tokenizers import describe
from lmjax.train.corpus_tokenizer import load_or_train_tokenizer
from lmjax.train.open_corpus import TOKENIZER, corpus_folder

EXAMPLE = "def greet(name: str) -> None:\n    print(f'Hello, {name}!')  # naïve café 😀"

_FILES = (".json", ".model", ".tiktoken", ".txt", ".vocab", ".bpe")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    first, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if first == "inspect":
        inspect_tokenizer.run(rest)
    elif first == "extend":
        extend.run(rest)
    else:
        _show(rest if first == "train" else arguments)


def _show(arguments: Sequence[str]) -> None:
    """Trains a recipe's tokenizer where there is none, and shows how a tokenizer cuts a text."""
    parser = argparse.ArgumentParser(
        prog="lmjax tokenizer",
        usage="lmjax tokenizer [train] SOURCE [options] | lmjax tokenizer inspect ... | lmjax tokenizer extend ...",
        description="Trains a recipe's tokenizer where there is none yet, and shows how it cuts a text.",
        epilog="Other options override the recipe, as for `lmjax train`. `lmjax tokenizer inspect --help` is about "
        "compression.",
        allow_abbrev=False,
    )
    parser.add_argument("source", help="a recipe, a run, a prepared folder, or the folder or file of a tokenizer")
    parser.add_argument("--text", default=EXAMPLE, help="text to cut into tokens")
    options, overrides = parser.parse_known_args(list(arguments))
    refuse_address("source", options.source)
    source = pathlib.Path(options.source)
    if source.is_dir() or source.suffix in _FILES:
        if overrides:
            parser.error(f"{overrides[0]}: a tokenizer that exists has no options")
        tokenizer = saved_tokenizer(source)
    else:
        config = parse_recipe("tokenizer", [options.source, *overrides])
        folder = corpus_folder(config.data, config.tokenizer)
        tokenizer = load_or_train_tokenizer(config.data, config.tokenizer, folder / TOKENIZER)
        print(f"{folder / TOKENIZER}")

    print(describe(tokenizer, options.text))
