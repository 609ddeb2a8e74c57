"""`lmjax preview RECIPE`: rows as the model sees them, as text or as a picture."""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence

from rich.console import Console

from lmjax.analysis.preview import preview_batch, side_by_side
from lmjax.analysis.preview_batch import recipe_tokenizer, step_batch, step_rows, text_documents, text_rows
from lmjax.analysis.preview_labels import objective_title
from lmjax.analysis.preview_text import print_preview
from lmjax.cli.progress_bar import bytes_bar
from lmjax.cli.recipe import parse_recipe
from lmjax.parallel.paths import refuse_address
from lmjax.train.components import components_of
from lmjax.train.open_corpus import open_corpus


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options, overrides = _parse(arguments)
    config = parse_recipe("preview", overrides)
    num_rows = options.rows
    if options.text:
        tokenizer = recipe_tokenizer(config)
        rows = text_rows(config, tokenizer, text_documents(options.text), num_rows=num_rows)
    else:
        with bytes_bar("preparing") as progress:
            corpus = open_corpus(config.data, config.tokenizer, progress=progress)
        if num_rows > config.train.batch_size:
            raise ValueError(
                f"--rows={num_rows}: a step has train.batch_size={config.train.batch_size}: ask for fewer, or raise it"
            )
        tokenizer, rows = corpus.tokenizer, step_rows(config, corpus, options.step)
    previews = {}
    for component in components_of(config.objective):
        objective, own_rows = component.objective, component.own(rows)
        own_config = dataclasses.replace(config, objective=objective)
        previews[component.name] = preview_batch(
            step_batch(own_config, tokenizer.vocabulary, own_rows, options.step),
            own_rows,
            tokenizer,
            title=objective_title(objective),
            num_rows=num_rows,
            width=options.width,
        )
    named = {name: one for name, one in previews.items() if name is not None}
    preview = side_by_side(named, title=type(config.objective).__name__) if named else previews[None]
    if options.png is None:
        print_preview(preview, Console(highlight=False))
        return
    from lmjax.analysis.preview_png import draw_preview

    print(draw_preview(preview, options.png))


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the command's own options, and the words of the recipe with its overrides."""
    parser = argparse.ArgumentParser(
        prog="lmjax preview",
        usage="lmjax preview RECIPE [options] [--field value ...]",
        description="Rows as the model sees them at a step of training: the data, the input made of it, the target "
        "and weight of each position, and who attends to whom.",
        epilog="Other options override the recipe, as for `lmjax train`; `lmjax preview RECIPE --help` lists them.",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("--rows", type=int, default=2, help="rows to show (default: 2)")
    parser.add_argument("--step", type=int, default=0, help="updates done before the step (default: 0)")
    parser.add_argument(
        "--width",
        type=int,
        default=48,
        help="positions to show of each row (default: 48); of a longer row all that is scored, with its surroundings",
    )
    parser.add_argument("--png", type=pathlib.Path, metavar="FILE", help="draw a picture instead")
    parser.add_argument(
        "--text",
        action="append",
        help="text to take in place of the recipe's data; blank lines divide documents, and the option may be "
        "repeated; every row is then this text, train.sequence_length tokens of it at most",
    )
    options, others = parser.parse_known_args(list(arguments))
    for name, least in (("rows", 1), ("step", 0), ("width", 1)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name}={getattr(options, name)}: must be at least {least}")
    refuse_address("--png", options.png)
    if set(others) & {"-h", "--help"}:
        print(parser.format_help())
    return options, others
