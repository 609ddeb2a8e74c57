"""Formulas in docstrings, which stand indented after an empty line, as literal blocks of the site."""

from typing import Any

from sphinx.application import Sphinx


def mark_formulas(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Puts ``::`` before each block that is indented below a paragraph which is not."""
    marked: list[str] = []
    above = ""
    for number, line in enumerate(lines):
        begins = number > 0 and not lines[number - 1].strip() and line.startswith("    ")
        if begins and above and not above.startswith(" ") and not above.endswith("::"):
            marked += ["::", ""]
        marked.append(line)
        above = line.rstrip() or above
    lines[:] = marked


def setup(app: Sphinx) -> dict:
    """Registers the handler, to run before napoleon's."""
    app.connect("autodoc-process-docstring", mark_formulas, priority=100)
    return {"parallel_read_safe": True}
