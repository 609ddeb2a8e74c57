"""Draws a preview as a picture: strips of tokens with their targets, and the masks as grids.

Axes: W positions that are shown.
"""

import dataclasses
import os
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len

from lmjax.analysis.picture import new_figure, save_picture
from lmjax.analysis.preview_text import number_label, short, stream_heading
from lmjax.analysis.preview_views import Preview, StreamView

WIDTH = 10.0
MARGIN = 0.3
GUTTER = 0.85
FONT = "DejaVu Sans Mono"
TITLE_CHARACTERS = 78
TOKEN_POINTS = 8.0
CELL_HEIGHT = 0.22
TITLE_WIDTH = 0.075
"""Width of a character of a mask's title, in inches."""
LABEL_POINTS = 52.0
"""Size of a mask's labels in points, for each inch of a cell."""

INK, GREY, EDGE, EMPTY = "#1F2933", "#8A94A0", "#CBD2D9", "#F5F7FA"
REPLACED, SPECIAL, PREFIX, SCORED = "#F7D9B8", "#7B3F98", "#D6E8F5", "#A8D5BA"
SCORED_INK = "#2E7D52"
PAST, AHEAD = "#3A7CA5", "#A9CCE3"


def draw_preview(preview: Preview, output: str | os.PathLike) -> pathlib.Path:
    """Draws a preview.

    Args:
      preview: the preview to draw; it is legible up to about 48 positions in a stream.
      output: the file; its ending decides the format.

    Returns:
      The path of the file written.

    Raises:
      ValueError: matplotlib is not installed or does not know the format, or such a file cannot exist.
    """
    figure = new_figure(figsize=(WIDTH, 1.0), dpi=150, facecolor="white", layout=None)
    sheet = _Sheet(figure.add_axes((0.0, 0.0, 1.0, 1.0)))
    sheet.title(preview.title)
    for row in preview.rows:
        if len(preview.rows) > 1:
            sheet.heading(row.heading)
        for stream in row.streams:
            sheet.strip(stream, heading=stream_heading(stream) if len(row.streams) > 1 else "")
        sheet.details(row.details)
        sheet.grids(row.streams)
    sheet.legend(preview)
    figure.set_size_inches(WIDTH, sheet.finish())
    return save_picture(figure, output)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Panel:
    """One mask to draw: the queries of ``stream`` are rows, the keys of ``keys`` are columns."""

    stream: StreamView
    keys: StreamView
    name: str
    visible_TS: np.ndarray

    @property
    def targets(self) -> list[str]:
        """The label of each query's target; they are shown only beside the stream's own mask."""
        scored = zip(self.stream.targets, self.stream.scored_W, strict=True)
        return [target if is_scored and self.name == "self" else "" for target, is_scored in scored]

    @property
    def columns(self) -> float:
        """The panel's width in cells, labels included."""
        return self.visible_TS.shape[1] + _label_width(self.stream.tokens) + _label_width(self.targets)


class _Sheet:
    """A page that is measured in inches from its top left corner and filled downwards."""

    def __init__(self, axes: Any):
        self.axes = axes
        self.y = MARGIN
        axes.set_axis_off()

    def finish(self) -> float:
        """Fits the axes to the drawing, and returns the page's height in inches."""
        height = self.y + MARGIN
        self.axes.set_xlim(0, WIDTH)
        self.axes.set_ylim(height, 0)
        return height

    def _text(self, x: float, y: float, text: str, *, points: float, colour: str = INK, **options: Any) -> None:
        settings = {"va": "center_baseline", "ha": "left", "family": FONT} | options
        # Tokens may have dollar signs, which do not mark formulas here.
        self.axes.text(x, y, text, fontsize=points, color=colour, parse_math=False, **settings)

    def _box(self, x: float, y: float, width: float, height: float, *, fill: str, edge: str | None = None) -> None:
        from matplotlib.patches import Rectangle

        line = {"edgecolor": edge, "linewidth": 0.6} if edge else {"linewidth": 0}
        self.axes.add_patch(Rectangle((x, y), width, height, facecolor=fill, **line))

    def title(self, text: str) -> None:
        """Draws the heading of the page."""
        for line in textwrap.wrap(text, TITLE_CHARACTERS):
            self._text(MARGIN, self.y + 0.05, line, points=13, family="DejaVu Sans", weight="bold")
            self.y += 0.26
        self.y += 0.14

    def heading(self, text: str) -> None:
        """Draws a heading within the page."""
        self._text(MARGIN, self.y + 0.06, text, points=9.5, family="DejaVu Sans", weight="bold", colour=GREY)
        self.y += 0.26

    def strip(self, stream: StreamView, *, heading: str) -> None:
        """Draws a stream's tokens in boxes, with their targets below, in as many lines as necessary."""
        if heading:
            self.heading(heading)
        widths = [_box_width(stream, i) for i in range(len(stream.tokens))]
        start = 0
        while start < len(widths):
            end, used = start + 1, widths[start]
            while end < len(widths) and used + widths[end] <= WIDTH - 2 * MARGIN - GUTTER:
                used += widths[end]
                end += 1
            self._strip_line(stream, range(start, end), widths)
            start = end
        self.y += 0.1

    def _strip_line(self, stream: StreamView, block: range, widths: Sequence[float]) -> None:
        lefts = MARGIN + GUTTER + np.cumsum([0.0, *(widths[i] for i in block)])
        self._positions(stream, block, lefts)
        if stream.has_other_data:
            self._lane("data", [(stream.original[i], "white", GREY) for i in block], lefts)
        self._lane("input", [(stream.tokens[i], *_token_colours(stream, i)) for i in block], lefts)
        if any(stream.targets):
            shades = _shades(stream)
            targets = [(stream.targets[i], _blend(SCORED, shades[i]), INK if shades[i] else GREY) for i in block]
            self._lane("target", targets, lefts)
        for term, values_W in stream.weights.items():
            if len(stream.weights) > 1 or not np.isin(values_W[~np.isnan(values_W)], (0, 1)).all():
                name = "weight" if len(stream.weights) == 1 else term
                self._values(name, [values_W[i] for i in block], lefts, top=np.nanmax(values_W, initial=0))
        for name, values_W in stream.numbers.items():
            self._values(name, [values_W[i] for i in block], lefts, top=0)
        for name, vectors_WD in stream.vectors.items():
            self._vectors(name, vectors_WD, block, lefts)
        self.y += 0.1

    def details(self, details: Sequence[str]) -> None:
        """Writes the descriptions of values that belong to no position."""
        for detail in details:
            self._text(MARGIN, self.y + 0.04, detail, points=7.5, colour=GREY, family="DejaVu Sans")
            self.y += 0.17
        self.y += 0.08 * bool(details)

    def _positions(self, stream: StreamView, block: range, lefts: np.ndarray) -> None:
        height = 0.14 + CELL_HEIGHT * (1 + stream.has_other_data + any(stream.targets))
        for i, left, right in zip(block, lefts, lefts[1:], strict=False):
            first = i == 0 or stream.documents_W[i] != stream.documents_W[i - 1]
            if stream.documents_W[i] and (first or stream.positions_W[i] % 5 == 0):
                middle, label = (left + right) / 2, str(stream.positions_W[i])
                self._text(middle, self.y + 0.05, label, points=5.5, colour=GREY, ha="center")
            if first and i:
                self._box(left - 0.012, self.y, 0.024, height, fill=INK)
        self.y += 0.12

    def _lane(self, name: str, cells: Sequence[tuple[str, str, str]], lefts: np.ndarray) -> None:
        self._text(MARGIN, self.y + CELL_HEIGHT / 2 - 0.01, name, points=8, colour=GREY, family="DejaVu Sans")
        for (label, fill, colour), left, right in zip(cells, lefts, lefts[1:], strict=False):
            if label:
                self._box(left + 0.015, self.y, right - left - 0.03, CELL_HEIGHT - 0.02, fill=fill, edge=EDGE)
                middle = self.y + CELL_HEIGHT / 2 - 0.01
                self._text((left + right) / 2, middle, short(label), points=TOKEN_POINTS, colour=colour, ha="center")
        self.y += CELL_HEIGHT

    def _values(self, name: str, values: Sequence[float], lefts: np.ndarray, *, top: float) -> None:
        self._text(MARGIN, self.y + 0.08, short(name, 16), points=6.5, colour=GREY, family="DejaVu Sans")
        for value, left, right in zip(values, lefts, lefts[1:], strict=False):
            if not np.isnan(value):
                share = max(0.0, value / top) if top else 0.0
                self._box(left + 0.015, self.y, right - left - 0.03, 0.15, fill=_blend(SCORED, share))
                self._text((left + right) / 2, self.y + 0.08, number_label(value), points=5.5, ha="center")
        self.y += 0.17

    def _vectors(self, name: str, vectors_WD: np.ndarray, block: range, lefts: np.ndarray) -> None:
        """Draws each vector as a column of shades, with its first number on top."""
        height = 0.03 * min(max(vectors_WD.shape[1], 8), 24)
        self._text(MARGIN, self.y + height / 2, short(name, 16), points=6.5, colour=GREY, family="DejaVu Sans")
        shades = {"cmap": "Greys", "vmin": vectors_WD.min(), "vmax": vectors_WD.max(), "interpolation": "nearest"}
        for i, left, right in zip(block, lefts, lefts[1:], strict=False):
            place = (left + 0.005, right - 0.005, self.y + height, self.y)
            self.axes.imshow(vectors_WD[i][:, None], extent=place, aspect="auto", zorder=1, **shades)
        self.y += height + 0.03

    def grids(self, streams: Sequence[StreamView]) -> None:
        """Draws all masks side by side, as large as possible."""
        panels = [
            _Panel(stream=stream, keys=stream if name == "self" else streams[0], name=name, visible_TS=visible_TS)
            for stream in streams
            for name, visible_TS in stream.attention.items()
        ]
        gap = 0.35
        titles = [f"{p.stream.name}: {p.name} attention" if len(panels) > 1 else "attention" for p in panels]

        def widths(cell: float) -> list[float]:
            return [max(cell * p.columns, TITLE_WIDTH * len(t)) for p, t in zip(panels, titles, strict=True)]

        cell, room = 0.145, WIDTH - 2 * MARGIN - gap * (len(panels) - 1)
        while cell > 0.01 and sum(widths(cell)) > room:
            cell *= 0.99
        x, y = MARGIN, self.y + 0.3 + cell * max(_label_width(panel.keys.tokens) for panel in panels)
        for panel, title, width in zip(panels, titles, widths(cell), strict=True):
            self._text(x, self.y + 0.06, title, points=8.5, family="DejaVu Sans", weight="bold", colour=GREY)
            self._grid(panel, x=x + cell * _label_width(panel.stream.tokens), y=y, cell=cell)
            x += width + gap
        self.y = y + cell * max(len(panel.visible_TS) for panel in panels) + 0.25

    def _grid(self, panel: "_Panel", *, x: float, y: float, cell: float) -> None:
        from matplotlib.colors import to_rgb

        height, width = panel.visible_TS.shape
        shown = np.where(panel.visible_TS[..., None], to_rgb(PAST), to_rgb(EMPTY))
        if panel.name == "self":
            later_TS = np.arange(width)[None, :] > np.arange(height)[:, None]
            shown = np.where((panel.visible_TS & later_TS)[..., None], to_rgb(AHEAD), shown)
        right, bottom = x + cell * width, y + cell * height
        self.axes.imshow(shown, extent=(x, right, bottom, y), aspect="auto", interpolation="nearest", zorder=1)
        lines = {"colors": "white", "linewidth": min(0.7, 4 * cell), "zorder": 2}
        self.axes.vlines(x + cell * np.arange(width + 1), y, bottom, **lines)
        self.axes.hlines(y + cell * np.arange(height + 1), x, right, **lines)
        points, aside = LABEL_POINTS * cell, 0.4 * cell
        for t, label in enumerate(map(_short, panel.stream.tokens)):
            middle = y + cell * (t + 0.5)
            self._text(x - aside, middle, label, points=points, colour=_token_colours(panel.stream, t)[1], ha="right")
            self._text(right + aside, middle, _short(panel.targets[t]), points=points, colour=SCORED_INK)
        for s, label in enumerate(map(_short, panel.keys.tokens)):
            place, colour = (x + cell * (s + 0.5), y - aside), _token_colours(panel.keys, s)[1]
            self._text(*place, label, points=points, colour=colour, rotation=90, rotation_mode="anchor")

    def legend(self, preview: Preview) -> None:
        """Explains the meaning of the colours that the picture uses."""
        streams = [stream for row in preview.rows for stream in row.streams]
        entries = {
            "replaced": (REPLACED, any(s.changed_W.any() for s in streams)),
            "prefix": (PREFIX, any(s.prefix_W.any() for s in streams)),
            "scored target": (SCORED, any(s.scored_W.any() for s in streams)),
            "attends to itself and before": (PAST, True),
            "attends to later": (AHEAD, any(s.ahead_W.any() for s in streams)),
        }
        x = MARGIN
        for name, (colour, there) in entries.items():
            if there:
                self._box(x, self.y, 0.12, 0.12, fill=colour)
                self._text(x + 0.18, self.y + 0.06, name, points=7.5, colour=GREY, family="DejaVu Sans")
                x += 0.45 + 0.05 * len(name)
        self.y += 0.15


def _box_width(stream: StreamView, i: int) -> float:
    numbers = [number_label(values_W[i]) for values_W in [*stream.weights.values(), *stream.numbers.values()]]
    longest = max(
        cell_len(short(label)) for label in (stream.original[i], stream.tokens[i], stream.targets[i], *numbers)
    )
    return max(0.2, longest * TOKEN_POINTS * 0.602 / 72 + 0.11)


def _short(label: str) -> str:
    return short(label, 12)


def _label_width(labels: Sequence[str]) -> float:
    """Returns the width of the longest label, in cells of a grid."""
    longest = max((cell_len(_short(label)) for label in labels), default=0)
    return longest * LABEL_POINTS * 0.602 / 72 + 0.6 if longest else 0.0


def _token_colours(stream: StreamView, i: int) -> tuple[str, str]:
    """Returns the colours of a token's box and of its text."""
    fill = REPLACED if stream.changed_W[i] else PREFIX if stream.prefix_W[i] else EMPTY
    if stream.documents_W[i] == 0:
        return "white", EDGE
    return fill, SPECIAL if stream.special_W[i] else INK


def _shades(stream: StreamView) -> np.ndarray:
    """Returns how much each target counts, float [W] from 0 to 1."""
    weights = [np.nan_to_num(w) / max(np.nanmax(w, initial=0), 1e-9) for w in stream.weights.values()]
    return stream.scored_W * (np.max(weights, axis=0) if weights else 1.0)


def _blend(colour: str, share: float) -> str:
    from matplotlib.colors import to_hex, to_rgb

    ink, paper = np.asarray(to_rgb(colour)), np.ones(3)
    return to_hex(np.clip(share * ink + (1 - share) * paper, 0, 1).tolist())
