"""JSON files that decide what a program does, read strictly: what JSON readers commonly let pass is refused."""

import json
import math
import pathlib
from typing import Any

MOST_DIGITS = 100
"""Longer numbers are no setting of anything."""


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file.

    Raises:
      OSError: it cannot be read.
      ValueError: it is not JSON, or says what cannot be meant: a key twice, NaN, a number beyond all bounds, or
        nesting without end. The message says what, not where the file lies.
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
    """What our own writer makes of an infinite number, which some fields may have."""
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
