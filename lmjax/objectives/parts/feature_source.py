"""Feature vectors out of token rows, on the device: what feature objectives train on.

The data pipeline delivers integers. ``values`` takes them as the numbers of vectors, which serves any
features that are stored quantised (pixels, log-mel energies); ``glyphs`` and ``tones`` make something to
see or to hear of plain text, so that every recipe has data.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.features.glyphs import CELL_HEIGHT, CELL_WIDTH, draw_bytes
from lmjax.features.tones import sound_bytes
from lmjax.field_types import check_literals
from lmjax.tokenizers.vocabulary import Vocabulary

_OWN_FIELDS = {"glyphs": (), "tones": ("frames", "noise"), "values": ("offset", "scale")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """How vectors of ``width`` numbers are made of tokens."""

    kind: Literal["glyphs", "tones", "values"] = "glyphs"
    """Patches of the text drawn as an image, frames of the text spoken, or the tokens themselves as numbers."""
    width: int = 24
    """Numbers in a vector D. glyphs: 6 for each column of pixels in a patch, 4 columns a byte. tones: bands of a frame.
    values: tokens that make a vector."""
    frames: int = 4
    """tones: frames a byte lasts."""
    noise: float = 0.5
    """tones: standard deviation of the noise, where that of the spectra is 1."""
    offset: float = 0.0
    """values: what is taken from a token's id."""
    scale: float = 1.0
    """values: what the difference is divided by."""

    def __post_init__(self):
        check_literals(self, "objective.source.")
        for name in ("width", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"objective.source.{name}={getattr(self, name)}: must be at least 1")
        if self.noise < 0 or self.scale <= 0:
            raise ValueError(
                f"objective.source.noise={self.noise} and objective.source.scale={self.scale}: noise must not be "
                f"negative, and scale must be above 0"
            )
        if self.kind == "glyphs" and self.width % CELL_HEIGHT:
            raise ValueError(
                f"objective.source.width={self.width}: a patch of glyphs is {CELL_HEIGHT} pixels high: use a multiple"
            )
        self._check_unused()

    def _check_unused(self):
        for kind, names in _OWN_FIELDS.items():
            for name in names if kind != self.kind else ():
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise ValueError(
                        f"objective.source.{name}={getattr(self, name)} is for kind={kind!r} and kind is "
                        f"{self.kind!r}: leave it out"
                    )

    def num_tokens(self, num_vectors: int) -> int:
        """Tokens that make so many vectors.

        Raises:
          ValueError: no whole number of tokens does.
        """
        tokens, vectors = self._ratio
        if num_vectors % vectors:
            raise ValueError(
                f"train.sequence_length={num_vectors}: {vectors} vectors are made of {tokens} tokens "
                f"(objective.source): use a multiple of {vectors}"
            )
        return num_vectors // vectors * tokens

    @property
    def _ratio(self) -> tuple[int, int]:
        """The fewest tokens that make a whole number of vectors, and that number."""
        if self.kind == "glyphs":
            columns = self.width // CELL_HEIGHT
            common = int(np.lcm(columns, CELL_WIDTH))
            return common // CELL_WIDTH, common // columns
        return (1, self.frames) if self.kind == "tones" else (self.width, 1)

    def check(self, vocabulary: Vocabulary) -> None:
        """Refuses to draw or to speak what is not bytes.

        Raises:
          ValueError: the tokenizer's ids below 256 are not the bytes.
        """
        bytes_V = vocabulary.byte_length_V
        is_bytes = vocabulary.size >= 256 and (bytes_V[:256] == 1).all() and not bytes_V[256:].any()
        if self.kind != "values" and not is_bytes:
            raise ValueError(
                f"objective.source.kind={self.kind!r} makes features of bytes, and the tokenizer has other tokens: "
                f"set tokenizer.kind to bytes"
            )

    def features(self, key: jax.Array, tokens_BT: jax.Array) -> jax.Array:
        """The vectors, float32 [B, N, D]; ``key`` is for the noise of tones."""
        if self.kind == "glyphs":
            return draw_bytes(tokens_BT, columns=self.width // CELL_HEIGHT)
        if self.kind == "tones":
            return sound_bytes(key, tokens_BT, width=self.width, frames=self.frames, noise=self.noise)
        values_BT = (tokens_BT.astype(jnp.float32) - self.offset) / self.scale
        return values_BT.reshape(tokens_BT.shape[0], -1, self.width)
