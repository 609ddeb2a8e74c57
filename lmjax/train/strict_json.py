"""Reads JSON files that decide what a program does, and refuses mistakes that JSON readers commonly accept."""

import json
import math
import pathlib
from typing import Any

MOST_DIGITS = 100
"""Numbers with more digits than this are refused: no setting needs them."""


def read_json(path: pathlib.Path) -> Any:
    """Returns the content of a JSON file.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is not JSON, or holds what cannot be meant: a key twice, NaN, a number that is too large, or
        nesting that is too deep. The message says what is wrong, but does not name the file.
    """
    try:
        return json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return result


def _constant(text: str) -> float:
    """Returns the infinite number that our own writer has written as this text; some fields may be infinite."""
    if text == "NaN":
        raise ValueError("it has the number NaN")
    return float(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it has the number {text[:MOST_DIGITS]}")
    return value


def _int(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"it has the number {text[:20]}... of {len(text)} digits")
    return int(text)
