"""A drawn figure as a file."""

import errno
import os
import pathlib
from typing import TYPE_CHECKING

from lmjax.atomic_files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def save_picture(figure: "Figure", output: str | os.PathLike) -> pathlib.Path:
    """Writes a picture, whole or not at all.

    Args:
      figure: what was drawn.
      output: the file; its ending decides the format, which is png without one.

    Returns:
      The path written.

    Raises:
      ValueError: there can be no such file, or matplotlib does not know the format.
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
