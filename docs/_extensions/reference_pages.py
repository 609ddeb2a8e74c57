"""The pages of the reference that follow from the code: the objectives and the commands.

They are written before Sphinx reads its sources, into docs/api/generated, which git ignores.
"""

import importlib
import inspect
import json
import os
import pathlib
import subprocess
import sys

from public_docstrings import all_problems
from sphinx.application import Sphinx
from sphinx.errors import SphinxError

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "api" / "generated"
WITH_RECIPE = ("train", "prepare", "preview", "tokenizer", "coordinates")
"""Commands whose help lists every field of a recipe, which is too long for a page."""
PRINT_HELP = """
import contextlib, io, json, sys
from lmjax.cli.main import main

texts = {}
for name in sys.argv[1:]:
    sys.argv = ["lmjax", name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main()
    texts[name] = out.getvalue()
print(json.dumps(texts))
"""


def check(app: Sphinx) -> None:
    """Refuses to build while a public function lacks a docstring, a formula, a source or an example.

    Raises:
      SphinxError: one does.
    """
    found = all_problems()
    if found:
        raise SphinxError("docstrings of public functions:\n  " + "\n  ".join(found))


def write_pages(app: Sphinx) -> None:
    """Writes the pages, each only where it would be another, so that Sphinx reads only what changed."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in (("objectives", objectives_page()), ("commands", commands_page())):
        path = FOLDER / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def objectives_page() -> str:
    """A section for each file of objectives: what the file says, then its public classes."""
    package = importlib.import_module("lmjax.objectives")
    modules: dict[str, list[str]] = {}
    for name in package.__all__:
        thing = getattr(package, name)
        if inspect.isclass(thing) and thing.__module__.startswith("lmjax.objectives."):
            modules.setdefault(thing.__module__, []).append(name)
    parts = ["# Objectives\n\nBy file of `lmjax.objectives`. [What each one does](../../objectives/README.md).\n"]
    for module, names in sorted(modules.items()):
        classes = "\n".join(f".. autoclass:: {module}.{name}\n   :members:\n   :show-inheritance:\n" for name in names)
        parts.append(f"## {', '.join(names)}\n\n```{{eval-rst}}\n.. automodule:: {module}\n\n{classes}```\n")
    return "\n".join(parts)


def commands_page() -> str:
    """A section for each command: its line in `lmjax --help`, and its options."""
    main = importlib.import_module("lmjax.cli.main")
    help_of = help_texts([name for name in main.COMMANDS if name not in WITH_RECIPE])
    parts = ["# Commands\n\n`lmjax COMMAND --help` prints what is below.\n"]
    for name, summary in main.COMMANDS.items():
        parts.append(f"## lmjax {name}\n\n{summary[0].upper()}{summary[1:]}.\n")
        if name in help_of:
            parts.append(f"```text\n{help_of[name]}\n```\n")
        else:
            parts.append(
                f"`lmjax {name} RECIPE --help` lists every field of the recipe, which an option can override.\n"
            )
    return "\n".join(parts)


def help_texts(commands: list[str]) -> dict[str, str]:
    """What `lmjax COMMAND --help` prints for each command, without colours; from one process for all."""
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-c", PRINT_HELP, *commands]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return {name: text.strip() for name, text in json.loads(done.stdout).items()}


def setup(app: Sphinx) -> dict:
    """Registers both."""
    app.connect("builder-inited", check)
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
