"""Masked (absorbing) diffusion in continuous time: the ELBO of MDLM and the score entropy of SEDD.

A noise schedule is the probability ``m(t)`` that a token is masked at time ``t`` in (0, 1], rising from
0 to 1 (the papers' ``1 - α``). Both losses bound the negative log-likelihood of the text when summed
over it and averaged over ``t``, and are the same number when SEDD's scores are made of normalised
probabilities: a masked token's cross entropy counts ``m'(t) / m(t)``.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Schedule = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""From times to ``(m, dm/dt)``."""


def linear_schedule(times: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``m = t`` (what SEDD and MDLM call log-linear noise)."""
    return times, jnp.ones_like(times)


def cosine_schedule(times: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``m = 1 - cos(π t / 2)``, as ``2 sin²(π t / 4)`` so that small times keep their digits.

    The same noise as :func:`lmjax.corruption.cosine_schedule`: few masks at first, most of them late.
    """
    angle = math.pi / 2 * times
    return 2 * jnp.sin(angle / 2) ** 2, math.pi / 2 * jnp.sin(angle)


def diffusion_weights(times: ArrayLike, *, schedule: Schedule = linear_schedule) -> jax.Array:
    """Weight ``m'(t) / m(t)`` of a masked token's cross entropy in the ELBO (MDLM, Eq. 10).

    Args:
      times: in (0, 1], any shape.
      schedule: the noise schedule.

    Returns:
      float32 of the same shape; 1 / t for the linear schedule.
    """
    masked, rate = schedule(jnp.asarray(times, jnp.float32))
    return rate / masked


def masked_diffusion_loss(
    token_nats: jax.Array, is_masked: ArrayLike, times: ArrayLike, *, schedule: Schedule = linear_schedule
) -> jax.Array:
    """MDLM's ELBO term of each position; its sum over a text, averaged over times, bounds the text's nats.

    Args:
      token_nats: [..., T], cross entropy of the clean token at each position (the model giving the mask
        token no probability, MDLM §3.2.3).
      is_masked: booleans [..., T], what the noise hid; other positions give 0.
      times: [...] or [..., T], the time each row (or position) was noised to, in (0, 1].
      schedule: the noise schedule it was noised with.

    Returns:
      float32 [..., T], in nats, unreduced.

    Raises:
      ValueError: shapes that do not match.
    """
    is_masked = jnp.asarray(is_masked)
    if token_nats.shape != is_masked.shape:
        raise ValueError(f"masked_diffusion_loss: token_nats {token_nats.shape}, is_masked {is_masked.shape} differ")
    weights = diffusion_weights(_per_position(times, is_masked.shape), schedule=schedule)
    return jnp.where(is_masked, weights * token_nats.astype(jnp.float32), 0.0)


def score_entropy_loss(
    log_scores: jax.Array,
    targets: ArrayLike,
    is_masked: ArrayLike,
    times: ArrayLike,
    *,
    mask_id: int,
    schedule: Schedule = linear_schedule,
) -> jax.Array:
    """SEDD's denoising score entropy for absorbing noise (Lou et al. 2024, §3).

    At a masked position the score of token y estimates ``p(y here) / p(mask here)``, whose true value
    is ``r = (1 - m) / m`` for the clean token and 0 for the others:

        loss = m' / (1 - m) (Σ_y exp(s_y) - r s_target + r (log r - 1)),   y over all but the mask

    Args:
      log_scores: [..., T, V].
      targets: integers [..., T], the clean tokens.
      is_masked: booleans [..., T]; other positions give 0.
      times: [...] or [..., T], in (0, 1); 1 itself leaves nothing of the text and gives infinity.
      mask_id: the token that absorbs, left out of the sum.
      schedule: the noise schedule.

    Returns:
      float32 [..., T], in nats, unreduced, never negative.

    Raises:
      ValueError: shapes that do not match.
    """
    targets, is_masked = jnp.asarray(targets, jnp.int32), jnp.asarray(is_masked)
    if not targets.shape == is_masked.shape == log_scores.shape[:-1]:
        raise ValueError(
            f"score_entropy_loss: log_scores {log_scores.shape}, targets {targets.shape} and is_masked "
            f"{is_masked.shape} must be [..., T, V] and [..., T] twice"
        )
    log_scores = log_scores.astype(jnp.float32)
    masked, rate = schedule(_per_position(times, targets.shape))
    ratio = (1 - masked) / masked
    index = jnp.where(is_masked, targets, 0)
    target_score = jnp.take_along_axis(log_scores, index[..., None], axis=-1)[..., 0]
    is_mask = jnp.broadcast_to(jnp.arange(log_scores.shape[-1]) == mask_id, log_scores.shape)
    total = jnp.sum(jnp.exp(jnp.where(is_mask, -jnp.inf, log_scores)), axis=-1)
    entropy = total - ratio * target_score + ratio * (jnp.log(ratio) - 1)
    return jnp.where(is_masked, rate / (1 - masked) * entropy, 0.0)


def _per_position(times: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    times = jnp.asarray(times, jnp.float32)
    if times.shape == shape[:-1]:
        times = times[..., None]
    if times.ndim != len(shape):
        raise ValueError(f"diffusion loss: times {times.shape} must be {shape[:-1]} or {shape}")
    return jnp.broadcast_to(times, shape)
