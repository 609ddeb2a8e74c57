"""An empty figure to draw on, and the file that it is written to."""

import errno
import os
import pathlib
from typing import TYPE_CHECKING, Any, Literal

from lmjax.atomic_files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def new_figure(*, layout: Literal["constrained"] | None = "constrained", **options: Any) -> "Figure":
    """Returns an empty figure that needs no display.

    Args:
      layout: what places the axes; None leaves them where they are put.
      **options: as of ``matplotlib.figure.Figure``.

    Raises:
      ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError('plots need matplotlib: pip install "lmjax[plot]"') from error
    figure = Figure(**options, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Any) -> None:
    """Takes the upper and right border off axes, and adds a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def save_picture(figure: "Figure", output: str | os.PathLike) -> pathlib.Path:
    """Writes a picture in one atomic step: a file is written whole or not at all.

    Args:
      figure: the drawn figure.
      output: the file; its ending decides the format, which is png if there is none.

    Returns:
      The path of the file written.

    Raises:
      ValueError: such a file cannot exist, or matplotlib does not know the format.
      OSError: the disk is full.
    """
    output = pathlib.Path(output)
    if output.is_dir():
        raise ValueError(f"the picture cannot be written: {output} is a folder: move it away, or name another file")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as file:
            figure.savefig(file, format=output.suffix.removeprefix(".") or "png")
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise ValueError(f"the picture {output} cannot be written ({error.strerror}): name another file") from error
    return output
