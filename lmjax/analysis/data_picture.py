"""Draws what prepared data hold: the lengths of documents, and how each packing fills and cuts."""

import os
import pathlib
from collections.abc import Mapping

from lmjax.analysis.picture import new_figure, save_picture
from lmjax.analysis.plots import COLOURS
from lmjax.data.inspection import Inspection


def draw_inspections(found: Mapping[str, Inspection], output: str | os.PathLike) -> pathlib.Path:
    """Draws the share of tokens by document length, and the documents cut and padding left by each packing.

    Args:
      found: the inspections, by the name of the source.
      output: the file of the picture.

    Returns:
      The path of the file written.

    Raises:
      ValueError: matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(figsize=(10, 4))
    lengths, packings = figure.subplots(1, 2)
    width = 0.8 / len(found)
    names = sorted({name for one in found.values() for name in one.packings})
    for number, (source, one) in enumerate(found.items()):
        colour, shift = COLOURS[number % len(COLOURS)], (number + 0.5) * width - 0.4
        lengths.step(
            [first for first, *_ in one.lengths],
            [tokens / one.tokens for *_, tokens in one.lengths],
            where="post",
            color=colour,
            label=source,
        )
        for place, name in enumerate(names):
            if name not in one.packings:
                continue
            packing = one.packings[name]
            packings.bar(place + shift, packing.cut, width, color=colour)
            packings.bar(place + shift, 1 - packing.fill, width, bottom=packing.cut, color=colour, alpha=0.4)
    lengths.set(xscale="log", xlabel="tokens of a document", ylabel="share of the tokens", ylim=(0, None))
    lengths.legend()
    packings.set_xticks(range(len(names)), names)
    length = next(iter(found.values())).sequence_length
    packings.set(title=f"documents cut, and (light) positions of padding, in rows of {length}")
    return save_picture(figure, output)
