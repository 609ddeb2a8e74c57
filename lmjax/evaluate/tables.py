"""Tables of what was measured, to be printed."""

import math
from collections.abc import Mapping

from rich import box
from rich.table import Table

MOST_ROWS = 20
"""The most rows of a table; of more, those with the most tokens are shown."""

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
    columns = list(dict.fromkeys(number for numbers in shown.values() for number in numbers))
    rest = len(parts) - len(shown)
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=f"and {rest} more in the JSON" if rest else None)
    rows.add_column(title, overflow="fold")
    for column in columns:
        rows.add_column(column.replace("_", " "), justify="right")
    for name, numbers in shown.items():
        rows.add_row(name, *(_shown(numbers.get(column, math.nan)) for column in columns))
    return rows


def _shown(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "" if math.isnan(value) else f"{value:.4f}" if abs(value) < 1e4 else f"{value:.4g}"
