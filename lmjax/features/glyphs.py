"""A font of 3 by 5 pixels that draws text as an image, the input of feature models.

A character is six octal digits, one for each row of pixels from top to bottom, with the highest bit on the left. The
last row is for descenders. A character's cell is one empty column wider than its glyph.

Axes: V bytes, W columns of pixels, H rows of pixels.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.integers import as_int32

CELL_HEIGHT, CELL_WIDTH = 6, 4

# From space to tilde, in the order of their codes.
_GLYPHS = """
000000 222020 550000 575750 363620 512450 252530 220000 122210 422240 052500 027200 000024 007000 000020 112440
755570 262270 717470 713170 557110 747170 747570 711220 757570 757170 020200 020240 124210 070700 421240 612020
257430 257550 656560 344430 655560 746470 746440 345530 557550 722270 111520 556550 444470 577550 655550 255520
656440 255730 656550 342160 722220 555570 555220 557750 552550 552220 712470 644460 442110 311130 250000 000007
420000 035530 465560 034430 135530 027430 127220 035316 465550 202220 101152 456650 622230 077550 065550 025520
065644 035311 034440 036360 272230 055530 055520 055770 052250 055316 073670 324230 222222 621260 036000
"""


@functools.cache
def glyph_table() -> np.ndarray:
    """Returns the cell of each byte, float32 [256, 6, 4], 1 for ink; a byte that is not printable ASCII is blank."""
    cells = np.zeros((256, CELL_HEIGHT, CELL_WIDTH), np.float32)
    for byte, digits in enumerate(_GLYPHS.split(), start=ord(" ")):
        cells[byte, :, :3] = [[int(digit) >> place & 1 for place in (2, 1, 0)] for digit in digits]
    return cells


def draw_bytes(bytes_BT: jax.Array, *, columns: int) -> jax.Array:
    """Draws rows of bytes as strips of pixels, 6 high and 4 wide for each byte, and cuts them into patches of columns.

    ``strip[:, 4 t + c] = cell(byte[t])[:, c]`` for the columns c of a cell, in the manner of PIXEL (Rust et al. 2023,
    section 2.1), where a model reads rendered text.

    Args:
      bytes_BT: int32; ids of 256 and above, which are not bytes, are blank.
      columns: width of a patch in pixels.

    Returns:
      float32 [B, 4 T / columns, 6 columns], a patch's pixels column by column; 1 is ink.

    Raises:
      ValueError: the strip does not divide into such patches.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import corruption
      >>> pixels = corruption.draw_bytes(jnp.array([[ord("L")]]), columns=4)
      >>> for row in pixels.reshape(4, 6).T:
      ...     print("".join(".#"[int(pixel)] for pixel in row))
      #...
      #...
      #...
      #...
      ###.
      ....
    """
    num_rows, length = bytes_BT.shape
    if columns < 1 or CELL_WIDTH * length % columns:
        raise ValueError(f"draw_bytes: columns={columns}: must divide the {CELL_WIDTH * length} of {length} bytes")
    table_VWH = jnp.asarray(np.pad(glyph_table(), ((0, 1), (0, 0), (0, 0))).swapaxes(1, 2))
    return table_VWH[jnp.clip(as_int32(bytes_BT, "bytes_BT"), 0, 256)].reshape(num_rows, -1, columns * CELL_HEIGHT)
