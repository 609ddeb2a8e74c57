"""Draws how well tokenizers compress texts."""

import os
import pathlib
from collections.abc import Mapping

from lmjax.analysis.picture import new_figure, save_picture
from lmjax.analysis.plots import COLOURS
from lmjax.tokenizers.compression import Compression


def draw_compression(found: Mapping[str, Mapping[str, Compression]], output: str | os.PathLike) -> pathlib.Path:
    """Draws bytes a token and the share of single bytes, source by source.

    Args:
      found: from the name of a tokenizer to its figures by source.
      output: the file of the picture.

    Returns:
      The path of the file written.

    Raises:
      ValueError: matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(figsize=(10, 4))
    ratios, singles = figure.subplots(1, 2)
    width = 0.8 / len(found)
    for number, (name, of_source) in enumerate(found.items()):
        places = [place + (number + 0.5) * width - 0.4 for place in range(len(of_source))]
        colour = COLOURS[number % len(COLOURS)]
        ratios.bar(places, [one.bytes_per_token for one in of_source.values()], width, color=colour, label=name)
        singles.bar(places, [one.single_bytes for one in of_source.values()], width, color=colour)
    for axes, title in ((ratios, "bytes a token"), (singles, "share of tokens that are parts of characters")):
        labels = [pathlib.PurePath(source).name for source in next(iter(found.values()))]
        axes.set_xticks(range(len(labels)), labels, rotation=20)
        axes.set_title(title)
    ratios.legend()
    return save_picture(figure, output)
