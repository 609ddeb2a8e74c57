"""Sinusoidal positions, which are a function of the position and have no parameters."""

import math

import jax
import jax.numpy as jnp


def sinusoidal(positions_BT: jax.Array, width: int) -> jax.Array:
    """Returns the sinusoidal embedding [B, T, width], sines before cosines (Vaswani et al. 2017, section 3.5)."""
    half = width // 2
    frequency_H = jnp.exp(-math.log(10_000.0) / half * jnp.arange(half, dtype=jnp.float32))
    angle_BTH = positions_BT.astype(jnp.float32)[:, :, None] * frequency_H[None, None, :]
    return jnp.concatenate([jnp.sin(angle_BTH), jnp.cos(angle_BTH)], axis=-1)
