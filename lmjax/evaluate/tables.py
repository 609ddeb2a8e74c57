"""Tables of what was measured, to be printed."""

import math
import os
from collections.abc import Mapping

from rich import box
from rich.table import Table

MOST_ROWS = 20
"""The most rows of a table; of more, those with the most tokens are shown."""

HIDDEN = ("bits_per_character", "top5_accuracy", "bytes", "characters", "texts")
"""Numbers that a table of a terminal's width has no room for; they are in the JSON."""

Parts = Mapping[str, Mapping[str, float]]


def table(title: str, parts: Parts) -> Table:
    """Returns a table with a row for each part and a column for each number.

    Args:
      title: what the parts are, such as "file".
      parts: the numbers of each part.
    """
    shown = parts
    if len(parts) > MOST_ROWS:
        largest = sorted(parts, key=lambda name: -parts[name].get("tokens", 0))[:MOST_ROWS]
        shown = {name: parts[name] for name in parts if name in largest}
    columns = list(dict.fromkeys(n for numbers in shown.values() for n in numbers if n not in HIDDEN))
    rest = len(parts) - len(shown)
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=f"and {rest} more in the JSON" if rest else None)
    rows.add_column(title, overflow="fold")
    for column in columns:
        rows.add_column(column.replace("_per_", "/").replace("_", " "), justify="right")
    shared = len(os.path.commonpath(shown)) + 1 if len(shown) > 1 and all(map(os.path.isabs, shown)) else 0
    for name, numbers in shown.items():
        rows.add_row(name[shared:], *(_shown(numbers.get(column, math.nan)) for column in columns))
    return rows


def _shown(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "" if math.isnan(value) else f"{value:.4f}" if abs(value) < 1e4 else f"{value:.4g}"
