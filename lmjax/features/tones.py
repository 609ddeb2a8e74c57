"""Synthetic speech: text as a sequence of noisy spectra, the input of feature models.

Axes: V bytes, P peaks of a spectrum, W bands of a spectrum.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.integers import as_int32

PEAKS = 3
"""Number of peaks in the spectrum of a byte, as a vowel has formants."""
PEAK_WIDTH = 0.04
"""Standard deviation of a peak, as a share of all bands."""


@functools.cache
def spectrum_table(width: int) -> np.ndarray:
    """Returns each byte's spectrum, float32 [256, width]: a few peaks, scaled to mean 0 and variance 1."""
    centre_VP = np.random.RandomState(0).uniform(size=(256, PEAKS))
    band_W = (np.arange(width) + 0.5) / width
    bumps_VPW = np.exp(-0.5 * np.square((band_W - centre_VP[..., None]) / PEAK_WIDTH))
    spectrum_VW = bumps_VPW.sum(axis=1)
    return ((spectrum_VW - spectrum_VW.mean()) / spectrum_VW.std()).astype(np.float32)


def sound_bytes(key: jax.Array, bytes_BT: jax.Array, *, width: int, frames: int, noise: float) -> jax.Array:
    """Returns rows of bytes as sound: each byte lasts some frames, and every frame has white noise.

    ``sound[t] = spectrum[byte at t // frames] + noise * normal draw``. The peaks of a spectrum stand for the formants
    of a vowel (Peterson and Barney 1952).

    Args:
      key: PRNG key of the noise.
      bytes_BT: int32; ids of 256 and above, which are not bytes, have noise only.
      width: number of bands of a frame.
      frames: number of frames for each byte.
      noise: standard deviation of the noise; that of the spectra is 1.

    Returns:
      float32 [B, frames T, width].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> sound = corruption.sound_bytes(jax.random.key(0), jnp.array([[65, 66]]), width=8, frames=3, noise=0.0)
      >>> print(sound.shape, bool((sound[0, 0] == sound[0, 2]).all()))
      (1, 6, 8) True
    """
    silence_1W = np.full((1, width), spectrum_table(width).min(), np.float32)
    table_VW = jnp.asarray(np.concatenate([spectrum_table(width), silence_1W]))
    sound_BTW = jnp.repeat(table_VW[jnp.clip(as_int32(bytes_BT, "bytes_BT"), 0, 256)], frames, axis=1)
    return sound_BTW + noise * jax.random.normal(key, sound_BTW.shape)
