"""`lmjax tokenizer RECIPE|FOLDER|FILE [--text TEXT]`: trains a recipe's tokenizer, shows how one cuts a text."""

import argparse
import pathlib
from collections.abc import Sequence

from lmjax.cli.recipe import parse_recipe
from lmjax.parallel.paths import refuse_address
from lmjax.tokenizers import TokenizerConfig, build_tokenizer, describe
from lmjax.train.corpus import TOKENIZER, corpus_folder, load_or_train_tokenizer

EXAMPLE = "def greet(name: str) -> None:\n    print(f'Hello, {name}!')  # naïve café 😀"

_FILES = (".json", ".model", ".tiktoken", ".txt", ".vocab", ".bpe")


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="lmjax tokenizer",
        description="Trains a recipe's tokenizer where there is none yet, and shows how it cuts a text.",
        epilog="Other options override the recipe, as for `lmjax train`.",
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
        saved = source / TOKENIZER if (source / TOKENIZER).is_dir() else source
        tokenizer = build_tokenizer(TokenizerConfig(path=str(saved), special_tokens=()), lambda: ())
    else:
        config = parse_recipe("tokenizer", [options.source, *overrides])
        folder = corpus_folder(config.data, config.tokenizer)
        tokenizer = load_or_train_tokenizer(config.data, config.tokenizer, folder / TOKENIZER)
        print(f"{folder / TOKENIZER}")

    print(describe(tokenizer, options.text))
