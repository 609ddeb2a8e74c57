"""Rotary positions (RoFormer: Su et al. 2021, section 3.2) and the scalings that extend them to longer contexts.

Axes: P pairs of dimensions that turn.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.field_types import check_literals
from lmjax.parallel.mesh import current_platform


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies change when a model is to read longer texts than it was trained on."""

    kind: Literal["none", "linear", "ntk", "yarn", "llama3"] = "none"
    """Positions divided (Chen et al. 2023), base raised (NTK-aware), by parts (YaRN: Peng et al. 2023), Llama 3.1's."""
    factor: float = 1.0
    """Times the original context."""
    original_length: int = 8192
    """The context the frequencies were trained for (`yarn`, `llama3`)."""
    low_frequency_factor: float = 1.0
    """`llama3`: wavelengths above original_length / this are divided by the whole factor."""
    high_frequency_factor: float = 4.0
    """`llama3`: wavelengths below original_length / this stay."""
    beta_fast: float = 32.0
    """`yarn`: dimensions that turn more often than this in the original context stay."""
    beta_slow: float = 1.0
    """`yarn`: those that turn less often are divided by the whole factor."""
    truncate: bool = True
    """`yarn`: the bounds between which dimensions are stretched are whole numbers (gpt-oss: False)."""
    attention_factor: float | None = None
    """`yarn`: factor of queries and keys both; 0.1 ln(factor) + 1 when unset."""

    def __post_init__(self):
        check_literals(self, "model.rope_scaling.")
        if self.factor < 1:
            raise ValueError(f"model.rope_scaling.factor={self.factor}: must be at least 1")
        if self.original_length < 1:
            raise ValueError(f"model.rope_scaling.original_length={self.original_length}: must be at least 1")
        if not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise ValueError(
                f"model.rope_scaling.low_frequency_factor={self.low_frequency_factor}: must lie between 0 and "
                f"high_frequency_factor={self.high_frequency_factor}"
            )

    @property
    def magnitude(self) -> float:
        """The factor of sines and cosines."""
        if self.kind != "yarn":
            return 1.0
        return 0.1 * math.log(self.factor) + 1.0 if self.attention_factor is None else self.attention_factor


def rope_frequencies(rotated: int, *, theta: float, scaling: RopeScaling) -> np.ndarray:
    """Returns the angle in radians by which one position turns each pair, float32 [rotated / 2].

    Without scaling it is ``theta^(-2i / rotated)`` for pair i. The scalings change it, with s the factor:

    - linear: all frequencies are divided by s.
    - ntk: the base becomes ``theta * s^(rotated / (rotated - 2))``, so that the slowest frequency is divided by s
      and the fastest stays.
    - yarn (section 3.2): pairs that turn more than ``beta_fast`` times within the original context stay,
      those that turn less than ``beta_slow`` times are divided by s; between them the change is linear in the index.
    - llama3: the same idea with bounds on the wavelength; between them the change is linear in its inverse.

    Args:
      rotated: how many of a head's dimensions turn, an even number.
      theta: the base of the frequencies.
      scaling: see :class:`RopeScaling`.
    """
    kind, factor = scaling.kind, scaling.factor
    if kind == "ntk":
        theta = theta * factor ** (rotated / (rotated - 2))
    index = np.arange(0, rotated, 2, dtype=np.float32) / rotated
    frequencies = 1.0 / (np.float32(theta) ** index)
    if kind == "linear":
        frequencies = frequencies / factor
    elif kind == "llama3":
        wavelengths = 2 * math.pi / frequencies
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        kept = np.clip((scaling.original_length / wavelengths - low) / (high - low), 0, 1)
        frequencies = kept * frequencies + (1 - kept) * frequencies / factor
    elif kind == "yarn":

        def index_of(turns: float) -> float:
            return rotated * math.log(scaling.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

        first, last = index_of(scaling.beta_fast), index_of(scaling.beta_slow)
        if scaling.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, rotated - 1)
        ramp = np.clip((np.arange(rotated // 2) - first) / max(last - first, 1e-3), 0, 1)
        frequencies = (1 - ramp) * frequencies + ramp * frequencies / factor
    return frequencies.astype(np.float32)


def rotate(x_BTNH: jax.Array, positions_BT: jax.Array, frequencies: np.ndarray, *, magnitude: float = 1.0) -> jax.Array:
    """Returns queries or keys, turned by the angles of their positions.

    The pairs ``(x[i], x[i + R/2])`` of the first R dimensions turn by ``position * frequency_i``. This is the
    half-split layout of GPT-NeoX and Llama. The dimensions from R on stay unchanged. The products are float32.

    Args:
      x_BTNH: queries or keys.
      positions_BT: int32 position of each token in its document.
      frequencies: [R / 2], see :func:`rope_frequencies`.
      magnitude: factor that multiplies the turned dimensions.
    """
    rotated = 2 * len(frequencies)
    angle_BT1H = positions_BT.astype(jnp.float32)[:, :, None, None] * jnp.asarray(frequencies)[None, None, None, :]
    sin, cos = magnitude * jnp.sin(angle_BT1H), magnitude * jnp.cos(angle_BT1H)
    if current_platform() == "tpu":
        return _turned_by_product(x_BTNH, sin, cos)
    left, right = jnp.split(x_BTNH[..., :rotated].astype(jnp.float32), 2, axis=-1)
    turned = [left * cos - right * sin, right * cos + left * sin]
    return jnp.concatenate([part.astype(x_BTNH.dtype) for part in (*turned, x_BTNH[..., rotated:])], axis=-1)


def _turned_by_product(x_BTNH: jax.Array, sin_BT1P: jax.Array, cos_BT1P: jax.Array) -> jax.Array:
    """Returns ``x * cos + partner * sin``, where ``partner`` is x with the halves of its first R dimensions exchanged.

    The halves of a head are parts of one register on a TPU. A product with a matrix of 0, 1 and -1, which is exact,
    exchanges them there at less cost than cutting and joining, forward and backward.
    """
    half, width = sin_BT1P.shape[-1], x_BTNH.shape[-1]
    exchange_HH = np.zeros((width, width), np.float32)
    exchange_HH[half : 2 * half, :half] = -np.eye(half)
    exchange_HH[:half, half : 2 * half] = np.eye(half)
    exact = jax.lax.Precision.HIGHEST if x_BTNH.dtype == jnp.float32 else None
    partner_BTNH = jnp.einsum("btnh,hk->btnk", x_BTNH, jnp.asarray(exchange_HH, x_BTNH.dtype), precision=exact)
    rest = [(0, 0)] * 3 + [(0, width - 2 * half)]
    sin_BT1H = jnp.pad(jnp.concatenate([sin_BT1P] * 2, axis=-1), rest)
    cos_BT1H = jnp.pad(jnp.concatenate([cos_BT1P] * 2, axis=-1), rest, constant_values=1.0)
    return (x_BTNH * cos_BT1H + partner_BTNH * sin_BT1H).astype(x_BTNH.dtype)
