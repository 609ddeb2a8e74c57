"""Absorbing diffusion: at time t every token has turned into the mask with probability 1 - alpha(t).

The forward process of MDLM (Sahoo et al. 2024, section 3) and of SEDD's absorbing case (Lou et al.
2024, section 3.3). A schedule gives alpha and the factor of the loss in one record:

    -alpha'(t) / (1 - alpha(t))    weighs MDLM's cross entropy over masked tokens, per token;
    sigma(t) = -log alpha(t)       is SEDD's total noise, with rate sigma'(t) = -alpha'(t) / alpha(t).
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmjax.integers import as_int32


class Noise(NamedTuple):
    """The state of the noising process at each row's time; float32 in the shape of the times."""

    alpha: jax.Array
    """Probability that a token is not masked."""
    hidden: jax.Array
    """Probability that a token is masked, ``1 - alpha``, precise also where alpha is near 1."""
    slope: jax.Array
    """The derivative of ``hidden`` by time."""

    @property
    def weight(self) -> jax.Array:
        """Factor of the cross entropy in MDLM's bound (its equation 10), ``-alpha' / (1 - alpha)``."""
        return self.slope / self.hidden

    @property
    def total(self) -> jax.Array:
        """SEDD's total noise sigma, ``-log alpha``."""
        return -jnp.log(self.alpha)

    @property
    def rate(self) -> jax.Array:
        """SEDD's noise rate, the derivative of sigma by time."""
        return self.slope / self.alpha


def linear_schedule(times: jax.Array) -> Noise:
    """``alpha = 1 - t``: the share of masked tokens grows evenly, and ``weight`` is ``1 / t``.

    Sahoo et al. 2024, appendix E.1.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import corruption
      >>> noise = corruption.linear_schedule(jnp.array([0.25]))
      >>> print(noise.alpha, noise.weight)
      [0.75] [4.]
    """
    return Noise(1 - times, times, jnp.ones_like(times))


def log_linear_schedule(times: jax.Array, *, floor: float = 1e-3) -> Noise:
    """``sigma = -log(1 - (1 - floor) t)`` (SEDD, MDLM): linear, but sigma stays finite at time 1.

    Sahoo et al. 2024, appendix E.1; Lou et al. 2024, section 5.1.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import corruption
      >>> noise = corruption.log_linear_schedule(jnp.array([1.0]), floor=0.5)
      >>> print(noise.alpha, noise.total)
      [0.5] [0.6931472]
    """
    hidden = (1 - floor) * times
    return Noise(1 - hidden, hidden, jnp.full_like(times, 1 - floor))


def cosine_schedule(times: jax.Array) -> Noise:
    """``alpha = cos(pi t / 2)``: few tokens are masked at early times, most at late times.

    Sahoo et al. 2024, appendix E.1.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import corruption
      >>> noise = corruption.cosine_schedule(jnp.array([0.5]))
      >>> print(noise.alpha, noise.slope)
      [0.70710677] [1.1107208]
    """
    angle = jnp.pi / 2 * times
    return Noise(jnp.cos(angle), 2 * jnp.sin(angle / 2) ** 2, jnp.pi / 2 * jnp.sin(angle))


SCHEDULES = {"linear": linear_schedule, "log_linear": log_linear_schedule, "cosine": cosine_schedule}
"""The schedules by the names that recipes use."""


def diffusion_times(key: jax.Array, num_rows: int, *, least: float = 1e-3, low_discrepancy: bool = True) -> jax.Array:
    """One time a row, uniform on [least, 1), float32 [B].

    ``t_b = least + (1 - least) ((u + b / B) mod 1)`` with one uniform draw u (Kingma et al. 2021, section I.1).

    Args:
      key: PRNG key.
      num_rows: B.
      least: no time is smaller: the weights grow as 1 / t.
      low_discrepancy: the rows share one draw and are spread evenly over the interval, which removes most of the
        variance of a batch's loss; each time by itself is still uniform. ``False``: independent draws.

    Raises:
      ValueError: ``least`` is not in [0, 1).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> times_B = corruption.diffusion_times(jax.random.key(0), 4, least=0.0)
      >>> print(jnp.diff(jnp.sort(times_B)))
      [0.25 0.25 0.25]
    """
    if not 0 <= least < 1:
        raise ValueError(f"diffusion_times: least={least}: must be 0 or more, and below 1")
    if low_discrepancy:
        offsets = jnp.arange(num_rows, dtype=jnp.float32) / num_rows
        uniform_B = (jax.random.uniform(key) + offsets) % 1.0
    else:
        uniform_B = jax.random.uniform(key, (num_rows,))
    return least + (1 - least) * uniform_B


def absorb(
    key: jax.Array,
    tokens_BT: jax.Array,
    alpha_B: jax.Array,
    *,
    mask_id: int,
    special_ids: Sequence[int] = (),
    segments_BT: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Masks each token with probability ``1 - alpha``, independently.

    Sahoo et al. 2024 (MDLM), section 3; Lou et al. 2024 (SEDD), section 3.3.

    Args:
      key: PRNG key.
      tokens_BT: int32 ids.
      alpha_B: float32, each row's probability of keeping a token.
      mask_id: the mask token.
      special_ids: ids that are never masked.
      segments_BT: document numbers, 0 for padding, which is never masked; ``None``: no padding.

    Returns:
      ``(inputs_BT, masked_BT)``: the noisy tokens, and which of them were masked (bool).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> key, tokens_BT = jax.random.key(0), jnp.array([[1, 5, 6]])
      >>> inputs_BT, masked_BT = corruption.absorb(key, tokens_BT, jnp.zeros(1), mask_id=9, special_ids=(1,))
      >>> print(inputs_BT, masked_BT)
      [[1 9 9]] [[False  True  True]]
    """
    tokens_BT = as_int32(tokens_BT, "tokens_BT")
    untouched = jnp.asarray((*special_ids, mask_id), tokens_BT.dtype)
    eligible_BT = ~jnp.isin(tokens_BT, untouched)
    if segments_BT is not None:
        eligible_BT &= segments_BT != 0
    masked_BT = eligible_BT & (jax.random.uniform(key, tokens_BT.shape) >= alpha_B[:, None])
    return jnp.where(masked_BT, mask_id, tokens_BT), masked_BT
