"""Prints a preview as text: lanes of tokens one under the other, and masks as blocks with two queries in a line.

Axes: W positions that are shown.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from lmjax.analysis.preview_views import Preview, RowView, StreamView

LONGEST = 18
"""Most terminal cells that a token may take; a longer one is cut."""

STYLES = {
    "special": "magenta",
    "replaced": "black on yellow",
    "prefix": "cyan",
    "scored target": "bold green",
    "not scored, padding": "bright_black",
}
_DIM, _EDGE = STYLES["not scored, padding"], "blue"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Lane:
    name: str
    labels: list[str]
    styles: list[str]


def print_preview(preview: Preview, console: Console) -> None:
    """Prints a preview, in colour if the console is a terminal."""
    for line in preview_lines(preview, width=console.width, legend=console.is_terminal):
        console.print(line, soft_wrap=True)


def preview_lines(preview: Preview, *, width: int, legend: bool = False) -> Iterator[Text]:
    """Yields the lines of a preview.

    Args:
      preview: the preview to show.
      width: number of terminal cells in a line; only masks may be wider.
      legend: whether to explain the colours first.
    """
    yield Text(preview.title, style="bold")
    yield Text(preview.summary)
    if legend:
        yield Text("  ").join(Text(name, style=style) for name, style in STYLES.items())
    drawn: dict[str, np.ndarray] = {}
    for row in preview.rows:
        yield Text("")
        yield Text(row.heading, style="bold underline")
        yield from _data_lines(row, width)
        for stream in row.streams:
            yield Text("")
            yield from _stream_lines(stream, width)
        for detail in row.details:
            yield Text(detail)
        for stream in row.streams:
            for name, visible in stream.attention.items():
                yield Text("")
                yield from _attention_lines(stream, name, visible, drawn)


def short(label: str, longest: int = LONGEST) -> str:
    """Returns a label, cut to ``longest`` terminal cells."""
    return label if cell_len(label) <= longest else set_cell_size(label, longest - 1) + "…"


def stream_heading(stream: StreamView) -> str:
    """Returns the stream's name, and a note on the positions that are left out."""
    shown = len(stream.tokens)
    if shown == stream.length:
        return stream.name
    edges = [-1, *stream.index_W.tolist(), stream.length]
    gaps = [(left + 1, right - 1) for left, right in itertools.pairwise(edges) if right - left > 1]
    named = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in gaps[:3])
    more = f" and {len(gaps) - 3} more stretches" if len(gaps) > 3 else ""
    scored = f", {stream.scored_left_out} of them scored" if stream.scored_left_out else ", none of them scored"
    if not stream.scored_W.any() and not stream.scored_left_out:
        scored = ""
    return f"{stream.name}, {shown} of {stream.length} positions; left out{scored}: {named}{more}"


def _data_lines(row: RowView, width: int) -> Iterator[Text]:
    """Yields the data's own tokens as running text; lines break between tokens, and a stroke divides documents."""
    margin = 6
    line, cells = Text("data".ljust(margin)), margin
    before = None
    for label, document in zip(row.data, row.data_documents_W.tolist(), strict=True):
        stroke = "" if before in (None, document) else "│"
        size = cell_len(label) + cell_len(stroke)
        if cells > margin and cells + size > width:
            yield line
            line, cells = Text(" " * margin), margin
        line.append(stroke, style=_EDGE)
        line.append(label, style="" if document else _DIM)
        cells, before = cells + size, document
    left_out = row.data_length - int(np.sum(row.data_documents_W > 0))
    if left_out:
        line.append(f" … and {left_out} more tokens", style=_DIM)
    yield line


def stream_lanes(stream: StreamView) -> list[_Lane]:
    """Returns the lanes of labels for each position, from top to bottom; empty lanes are left out."""
    token_styles = [_token_style(stream, i) for i in range(len(stream.tokens))]
    target_styles = [STYLES["scored target"] if scored else _DIM for scored in stream.scored_W.tolist()]
    plain = [""] * len(stream.tokens)
    lanes = []
    if stream.has_other_data:
        lanes.append(_Lane(name="data", labels=stream.original, styles=plain))
    lanes.append(_Lane(name="input", labels=stream.tokens, styles=token_styles))
    if any(stream.targets):
        lanes.append(_Lane(name="target", labels=stream.targets, styles=target_styles))
    for term, values_W in stream.weights.items():
        name = "weight" if len(stream.weights) == 1 else f"weight {term}"
        styles = [_DIM if value == 0 else "" for value in values_W.tolist()]
        lanes.append(_Lane(name=name, labels=[*map(number_label, values_W)], styles=styles))
    for name, values_W in stream.numbers.items():
        lanes.append(_Lane(name=name, labels=[*map(number_label, values_W)], styles=plain))
    sees = ["↔" if ahead else "←" for ahead in stream.ahead_W.tolist()]
    lanes.append(
        _Lane(name="sees", labels=sees, styles=[_DIM if document == 0 else "" for document in stream.documents_W])
    )
    return [dataclasses.replace(lane, labels=[*map(short, lane.labels)]) for lane in lanes]


def _token_style(stream: StreamView, i: int) -> str:
    if stream.documents_W[i] == 0:
        return _DIM
    kinds = {"replaced": stream.changed_W, "special": stream.special_W, "prefix": stream.prefix_W}
    return next((STYLES[kind] for kind, is_so_W in kinds.items() if is_so_W[i]), "")


def number_label(value: float) -> str:
    """Returns a number in few characters; an empty string for NaN."""
    if np.isnan(value):
        return ""
    # A whole number, such as an id of four digits, is not rounded as a measurement is.
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e6 else f"{float(value):.3g}"


def _stream_lines(stream: StreamView, width: int) -> Iterator[Text]:
    """Yields the lines of the lanes, one column for each token, in as many blocks as the width requires."""
    lanes = stream_lanes(stream)
    yield Text(stream_heading(stream), style="bold")
    margin = max(cell_len(lane.name) for lane in [*lanes, _POSITION]) + 1
    columns = [max(1, *(cell_len(lane.labels[i]) for lane in lanes)) for i in range(len(stream.tokens))]
    begins = [i > 0 and d != stream.documents_W[i - 1] for i, d in enumerate(stream.documents_W.tolist())]
    skips = np.diff(stream.index_W, prepend=stream.index_W[:1] - 1) > 1
    start = 0
    while start < len(columns):
        end, cells = start + 1, margin + 1 + columns[start]
        while end < len(columns) and cells + 1 + columns[end] <= width:
            cells += 1 + columns[end]
            end += 1
        block = range(start, end)
        yield _ruler(stream, block, columns, margin)
        for lane in lanes:
            line = Text(lane.name.ljust(margin), style="")
            for i in block:
                line.append("┊" if skips[i] else "│" if begins[i] else " ", style=_EDGE)
                line.append(lane.labels[i], style=lane.styles[i])
                line.append(" " * (columns[i] - cell_len(lane.labels[i])))
            line.rstrip()
            yield line
        if end < len(columns):
            yield Text("")
        start = end


_POSITION = _Lane(name="position", labels=[], styles=[])


def _ruler(stream: StreamView, block: range, columns: Sequence[int], margin: int) -> Text:
    """Returns a line of positions in documents: all if there is room, else each document's first and every fifth."""
    labels = [str(position) for position in stream.positions_W.tolist()]
    every = 1 if all(len(labels[i]) <= columns[i] for i in block) else 5
    line = _POSITION.name.ljust(margin)
    offset = margin + 1
    for i in block:
        first = i == 0 or stream.documents_W[i] != stream.documents_W[i - 1]
        if (first or stream.positions_W[i] % every == 0) and (len(line) < offset or line[-1] == " "):
            line = line.ljust(offset) + labels[i]
        offset += columns[i] + 1
    return Text(line, style=_DIM)


def _attention_lines(
    stream: StreamView, name: str, visible_TS: np.ndarray, drawn: dict[str, np.ndarray]
) -> Iterator[Text]:
    """Yields the lines of a stream's mask, unless the row before had the same mask."""
    title = f"{stream.name}: {name} attention"
    before = drawn.get(title)
    drawn[title] = visible_TS
    if before is not None and np.array_equal(before, visible_TS):
        yield Text(f"{title}: as in the row before", style="bold")
        return
    yield Text(f"{title} (queries down, keys across)", style="bold")
    for query, line in zip(range(0, len(visible_TS), 2), mask_blocks(visible_TS), strict=True):
        yield Text(f"{query:>5} ", style=_DIM) + Text(line, style=_EDGE) + Text("▏", style=_DIM)


def mask_blocks(visible_TS: np.ndarray) -> list[str]:
    """Returns the lines of a mask in half blocks: a character for each key and a line for two queries.

    The characters are ``█ ▀ ▄`` and a space.
    """
    blocks = np.array([" ", "▄", "▀", "█"])
    even_TS = np.pad(visible_TS, ((0, len(visible_TS) % 2), (0, 0))).astype(int)
    return ["".join(line) for line in blocks[2 * even_TS[::2] + even_TS[1::2]]]
