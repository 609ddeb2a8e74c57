"""What the docstrings of the public functions must have: a sentence, and for the maths a formula, a source, an example.

`problems` needs no Sphinx: the tests call it, and the site is not built while it finds anything.
"""

import importlib
import inspect
import pathlib
import re
from collections.abc import Iterator
from typing import Any

ROOMS = ("lmjax.losses", "lmjax.corruption", "lmjax.masks", "lmjax.schedules", "lmjax.objectives")
WITH_MATHS = ("lmjax.losses", "lmjax.corruption", "lmjax.masks")
"""Rooms in which every function has a formula, a source and an example in its docstring."""

FORMULA = re.compile(r"``[^`]*(?:[=<>+*/²→≤Σσ|]|\.\.|[a-z]\(|[\[(]\w+, \w)[^`]*``|^ {4,}\S.* = ", re.MULTILINE)
"""Code with a sign or a call in it, or a line of its own that has an equals sign."""
SOURCE = re.compile(r"[A-ZÀ-Ž]\w+(?: et al\.| and [A-Z]\w+| & [A-Z]\w+)?,?\s+(?:1[89]|20)\d\d")
"""Authors and year, as in `Devlin et al. 2019`."""
EXAMPLE = re.compile(r"^ *Example:\n +>>> ", re.MULTILINE)


def public(room: str) -> Iterator[tuple[str, Any]]:
    """Names and objects of a room: what it exports, or all of it that has no leading underscore."""
    module = importlib.import_module(room)
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    for name in names:
        thing = getattr(module, name)
        is_own = hasattr(module, "__all__") or getattr(thing, "__module__", None) == room
        if is_own and (inspect.isfunction(thing) or inspect.isclass(thing)):
            yield name, thing


def problems(name: str, thing: Any, *, with_maths: bool) -> list[str]:
    """What the docstring of a public function or class lacks, in words."""
    text = inspect.cleandoc(thing.__doc__) if thing.__doc__ else ""
    # A dataclass without a docstring gets its signature as one.
    if not text or (inspect.isclass(thing) and text.startswith(f"{thing.__name__}(")):
        return [f"{name} has no docstring"]
    if inspect.isclass(thing) or not with_maths:
        return []
    lacks = {
        "formula": not FORMULA.search(text),
        "source (authors and year)": not SOURCE.search(text),
        "example": not EXAMPLE.search(text),
    }
    return [f"{name} has no {what}" for what, is_missing in lacks.items() if is_missing]


def objective_problems(name: str, pages: dict[str, str]) -> list[str]:
    """What the pages of docs/objectives, by file name, lack to explain an objective."""
    about = [text for page, text in pages.items() if f"`{name}`" in text and page != "README.md"]
    lacks = {
        "page in docs/objectives": not about,
        "formula on its page": not any(re.search(r"^ {4}\S.* = ", text, re.MULTILINE) for text in about),
        "source (authors and year) on its page": not any(SOURCE.search(text) for text in about),
    }
    return [f"{name} has no {what}" for what, is_missing in lacks.items() if is_missing]


def objectives() -> Iterator[str]:
    """Names of the objectives a recipe can choose, those made for other objectives to build on left out."""
    base = importlib.import_module("lmjax.objectives").Objective
    for name, thing in public("lmjax.objectives"):
        if inspect.isclass(thing) and issubclass(thing, base) and ".parts." not in thing.__module__:
            yield name


def objective_pages() -> dict[str, str]:
    """The pages of docs/objectives by file name."""
    folder = pathlib.Path(__file__).resolve().parents[1] / "objectives"
    return {path.name: path.read_text() for path in folder.glob("*.md")}


def all_problems() -> list[str]:
    """Everything that keeps the site from being built."""
    found = [
        f"{room}.{line}"
        for room in ROOMS
        for name, thing in public(room)
        for line in problems(name, thing, with_maths=room in WITH_MATHS)
    ]
    pages = objective_pages()
    return found + [line for name in objectives() for line in objective_problems(name, pages)]
