"""Names that say the shape of their value: which ones a module uses, and whether running code keeps their word."""

import ast
import contextlib
import dataclasses
import pathlib
import re
import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

import lmjax

ROOT = pathlib.Path(lmjax.__file__).parent
SUFFIX = re.compile(r"_*[a-z][a-z0-9_]*_(\d*[A-Z][A-Z0-9]*|1+)")
"""A name in lower case, then one capital letter or digit an axis: `hidden_BTD`, `index_11S`."""
LEGEND = re.compile(r"\b([A-Z]) [a-z]")


def axes(name: str) -> str | None:
    """The axes a name states, one character each; None where it states none."""
    match = SUFFIX.fullmatch(name)
    return match[1] if match else None


def used_letters(source: str) -> dict[str, str]:
    """The letters that names of a module's source have in their suffix, each with such a name."""
    letters: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        for field in ("id", "arg", "attr"):
            name = getattr(node, field, None)
            for letter in (axes(name) or "") if isinstance(name, str) else "":
                if letter.isalpha():
                    letters.setdefault(letter, name)
    return letters


def global_legend() -> set[str]:
    """The letters that :mod:`lmjax.types` explains for all modules."""
    docstring = ast.get_docstring(ast.parse((ROOT / "types.py").read_text())) or ""
    return {letter for line in docstring.splitlines() if line.startswith("    ") for letter in LEGEND.findall(line)}


def local_legend(source: str) -> set[str]:
    """The letters that a module explains for itself, in the paragraph `Axes: ...` of its docstring."""
    docstring = ast.get_docstring(ast.parse(source)) or ""
    match = re.search(r"^Axes: (.*?)(?:\n\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    return set(LEGEND.findall(match[1])) if match else set()


@contextlib.contextmanager
def watched(root: pathlib.Path = ROOT) -> Iterator[set[str]]:
    """Collects the names of functions below ``root`` whose values had another number of axes when they returned.

    Looked at are arguments and local variables, and the fields of records among them; arrays, traced ones included.
    """
    wrong: set[str] = set()
    prefix = str(root)
    is_watched: dict[CodeType, bool] = {}

    def on_call(frame: FrameType, event: str, _: Any):
        code = frame.f_code
        if code not in is_watched:
            is_watched[code] = code.co_filename.startswith(prefix)
        if not is_watched[code]:
            return None
        frame.f_trace_lines = False
        return on_return

    def on_return(frame: FrameType, event: str, _: Any):
        if event == "return":
            place = f"{pathlib.Path(frame.f_code.co_filename).relative_to(root)}:{frame.f_code.co_name}"
            wrong.update(f"{place}: {line}" for line in _misnamed(frame.f_locals))
        return on_return

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        yield wrong
    finally:
        sys.settrace(before)


def _misnamed(values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        surplus = _surplus(name, value)
        if surplus:
            yield f"{name} has {len(value.shape)} axes: {value.shape}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [field.name for field in dataclasses.fields(value)]
        else:
            fields = list(getattr(type(value), "_fields", ()))
        found = {field: _surplus(field, getattr(value, field, None)) for field in fields}
        known = {field: surplus for field, surplus in found.items() if surplus is not None}
        # A stack of records has an axis more in all of its arrays, and a record out of a stack an axis less.
        if len(set(known.values())) > 1:
            yield from (f"{name}.{field} has {surplus:+} axes" for field, surplus in known.items() if surplus)


def _surplus(name: str, value: Any) -> int | None:
    """How many axes a value has beyond those its name states; None where it is no array or the name states none."""
    stated, shape = axes(name), getattr(value, "shape", None)
    return None if stated is None or not isinstance(shape, tuple) else len(shape) - len(stated)
