"""Positions that are functions, not parameters: rotary and sinusoidal."""

import math

import jax
import jax.numpy as jnp


def rotate(x_BTNH: jax.Array, positions_BT: jax.Array, *, theta: float) -> jax.Array:
    """Rotary embedding: pairs ``(x[h], x[h + H/2])`` turn by ``position * theta^(-2h/H)``.

    RoFormer (Su et al. 2021), section 3.2, in the half-split layout of GPT-NeoX and Llama.

    Args:
      x_BTNH: queries or keys.
      positions_BT: int32 position of each token in its document.
      theta: base of the frequencies.
    """
    half = x_BTNH.shape[-1] // 2
    frequency_1H = (theta ** (-jnp.arange(half, dtype=jnp.float32) / half))[None, None, None, :]
    angle_BT1H = positions_BT.astype(jnp.float32)[:, :, None, None] * frequency_1H
    sin, cos = jnp.sin(angle_BT1H), jnp.cos(angle_BT1H)
    left, right = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x_BTNH.dtype)


def sinusoidal(positions_BT: jax.Array, width: int) -> jax.Array:
    """Sinusoidal embedding [B, T, width], sines then cosines (Vaswani et al. 2017, section 3.5)."""
    half = width // 2
    frequency_H = jnp.exp(-math.log(10_000.0) / half * jnp.arange(half, dtype=jnp.float32))
    angle_BTH = positions_BT.astype(jnp.float32)[:, :, None] * frequency_H[None, None, :]
    return jnp.concatenate([jnp.sin(angle_BTH), jnp.cos(angle_BTH)], axis=-1)
