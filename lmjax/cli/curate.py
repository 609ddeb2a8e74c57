"""`lmjax curate RECIPE [--field value ...]`: filters raw text, removes duplicates, and reports on it; resumable."""

import ast
import pathlib
import sys
from collections.abc import Sequence

import tyro

from lmjax.cli.engine import OPTIONS, take_where
from lmjax.cli.progress_bar import bytes_bar
from lmjax.curate.config import Curation
from lmjax.curate.curate import curate
from lmjax.curate.report import as_text
from lmjax.field_types import check_types
from lmjax.train.recipes import find_recipe, load_recipe_of

USAGE = "usage: lmjax curate RECIPE [--field value ...]"


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    where, arguments = take_where(arguments)
    if not arguments or arguments[0].startswith("-"):
        if set(arguments) & {"-h", "--help"}:
            print(
                f"{USAGE}\n{OPTIONS}\nA recipe is a Python file with a function that returns a lmjax.curate.Curation."
            )
            sys.exit(0)
        raise ValueError(f"name a recipe first, as in `lmjax curate clean.py`\n{USAGE}")
    path = find_recipe(arguments[0])
    curation = tyro.cli(
        Curation,
        default=load_recipe_of(Curation, path),
        args=arguments[1:],
        prog=f"lmjax curate {path}",
        description=f"{ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''}\n{OPTIONS}",
        config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
    )
    check_types(curation)
    with bytes_bar("curating") as progress:
        report = curate(curation, num_workers=where.workers, engine=where.engine, progress=progress)
    print(as_text(report), end="")
    print(f"\n{pathlib.Path(curation.folder) / 'report.html'}")
