"""Masked (absorbing) diffusion in continuous time: the ELBO of MDLM and the score entropy of SEDD.

A noise schedule is the probability ``m(t)`` that a token is masked at time ``t`` in (0, 1], rising from
0 to 1 (the papers' ``1 - α``). Summed over a text and averaged over ``t``, both losses bound the negative
log-likelihood of the text. They are equal if SEDD's scores are made from normalised probabilities: the cross entropy
of a masked token then has the weight ``m'(t) / m(t)``.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lmjax.integers import as_int32

Schedule = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""A function of times that returns ``(m, dm/dt)``."""


def linear_schedule(times: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``m = t`` (what SEDD and MDLM call log-linear noise).

    Sahoo et al. 2024 (MDLM), appendix E.1; Lou et al. 2024 (SEDD), section 5.1.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> masked, rate = losses.linear_schedule(jnp.array([0.25, 0.5]))
      >>> print(masked, rate)
      [0.25 0.5 ] [1. 1.]
    """
    return times, jnp.ones_like(times)


def cosine_schedule(times: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``m = 1 - cos(π t / 2)``, as ``2 sin²(π t / 4)`` so that small times keep their digits.

    This is the noise of :func:`lmjax.corruption.cosine_schedule`: few tokens are masked at early times, most at late
    times.

    Sahoo et al. 2024 (MDLM), appendix E.1.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> masked, rate = losses.cosine_schedule(jnp.array([0.5, 1.0]))
      >>> print(masked, rate)
      [0.29289326 0.99999994] [1.1107208 1.5707964]
    """
    angle = math.pi / 2 * times
    return 2 * jnp.sin(angle / 2) ** 2, math.pi / 2 * jnp.sin(angle)


def diffusion_weights(times: ArrayLike, *, schedule: Schedule = linear_schedule) -> jax.Array:
    """Weight ``m'(t) / m(t)`` of a masked token's cross entropy in the ELBO (Sahoo et al. 2024, MDLM, Eq. 10).

    Args:
      times: in (0, 1], any shape.
      schedule: the noise schedule.

    Returns:
      float32 of the same shape; 1 / t for the linear schedule, infinity at time 0, where no token is masked; NaN for
      a time outside of [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.diffusion_weights([0.25, 1.0]))
      [4. 1.]
    """
    masked, rate = schedule(_checked(times))
    return jnp.where(masked == 0, jnp.inf, rate / masked)  # the cosine schedule has 0 / 0 at time 0


def masked_diffusion_loss(
    token_nats: jax.Array, is_masked: ArrayLike, times: ArrayLike, *, schedule: Schedule = linear_schedule
) -> jax.Array:
    """MDLM's ELBO term of each position; its sum over a text, averaged over times, bounds the text's nats.

    ``loss = m'(t) / m(t) token_nats`` where the token is masked, 0 elsewhere (Sahoo et al. 2024, Eq. 10).

    Args:
      token_nats: [..., T], cross entropy of the clean token at each position (the model giving the mask
        token no probability, section 3.2.3 of the paper).
      is_masked: booleans [..., T], the positions that the noise masked; other positions give 0.
      times: [...] or [..., T], the time each row (or position) was noised to, in (0, 1]; a masked position at time 0
        gives infinity, at a time outside of [0, 1] NaN.
      schedule: the noise schedule it was noised with.

    Returns:
      float32 [..., T], in nats, unreduced.

    Raises:
      ValueError: shapes that do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.masked_diffusion_loss(jnp.array([1.0, 2.0]), [True, False], 0.5))  # 1 / 0.5 nats
      [2. 0.]
    """
    is_masked = jnp.asarray(is_masked, bool)
    if token_nats.shape != is_masked.shape:
        raise ValueError(f"masked_diffusion_loss: token_nats {token_nats.shape}, is_masked {is_masked.shape} differ")
    weights = diffusion_weights(_scored_times(times, is_masked), schedule=schedule)
    return jnp.where(is_masked, weights * jnp.where(is_masked, token_nats.astype(jnp.float32), 0.0), 0.0)


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
      targets: integers [..., T], the clean tokens; one that is masked and not in the vocabulary gives NaN.
      is_masked: booleans [..., T]; other positions give 0.
      times: [...] or [..., T], in (0, 1). At time 1 nothing of the text is left, and at time 0 nothing is masked: a
        masked position gives infinity at both, and NaN at a time outside of [0, 1].
      mask_id: the token that absorbs, left out of the sum.
      schedule: the noise schedule.

    Returns:
      float32 [..., T], in nats, unreduced, never negative.

    Raises:
      ValueError: shapes that do not match, or a mask token outside of the vocabulary.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> log_scores = jnp.log(jnp.array([[0.5, 0.5, 1.0]]))
      >>> loss = losses.score_entropy_loss(log_scores, [0], [True], 0.5, mask_id=2)
      >>> print(loss)  # 2 (1 - log 0.5 - 1)
      [1.3862944]
    """
    targets, is_masked = as_int32(targets, "targets"), jnp.asarray(is_masked, bool)
    if not targets.shape == is_masked.shape == log_scores.shape[:-1]:
        raise ValueError(
            f"score_entropy_loss: log_scores {log_scores.shape}, targets {targets.shape} and is_masked "
            f"{is_masked.shape} must be [..., T, V] and [..., T] twice"
        )
    vocab_size = log_scores.shape[-1]
    if not 0 <= mask_id < vocab_size:
        raise ValueError(f"score_entropy_loss: mask_id={mask_id}: ids lie in 0 .. {vocab_size - 1}")
    log_scores = jnp.where(is_masked[..., None], log_scores.astype(jnp.float32), 0.0)
    masked, rate = schedule(_checked(_scored_times(times, is_masked)))
    kept = jnp.maximum(1 - masked, 0.0)  # rounding may leave a number slightly below 0
    ratio = kept / masked
    index = jnp.clip(targets, 0, vocab_size - 1)
    target_score = jnp.take_along_axis(log_scores, index[..., None], axis=-1)[..., 0]
    is_mask = jnp.broadcast_to(jnp.arange(log_scores.shape[-1]) == mask_id, log_scores.shape)
    total = jnp.sum(jnp.exp(jnp.where(is_mask, -jnp.inf, log_scores)), axis=-1)
    # r log r is 0 at 0, the end of the process.
    some = jnp.where(ratio > 0, ratio, 1.0)
    surplus = jnp.where(ratio > 0, some * (jnp.log(some) - 1 - target_score), 0.0)
    loss = jnp.where(index == targets, rate / kept * (total + surplus), jnp.nan)
    loss = jnp.where((masked == 0) | (kept == 0), jnp.inf, loss)
    return jnp.where(is_masked, loss, 0.0)


def _per_position(times: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    times = jnp.asarray(times, jnp.float32)
    if times.shape == shape[:-1]:
        times = times[..., None]
    if times.ndim != len(shape):
        raise ValueError(f"diffusion loss: times {times.shape} must be {shape[:-1]} or {shape}")
    return jnp.broadcast_to(times, shape)


def _scored_times(times: ArrayLike, is_masked: jax.Array) -> jax.Array:
    """Returns the times of masked positions, and 0.5 for the others: at 0 and 1 their gradient would be NaN."""
    return jnp.where(is_masked, _per_position(times, is_masked.shape), 0.5)


def _checked(times: ArrayLike) -> jax.Array:
    """Returns the times as float32, and NaN for a time outside of [0, 1]."""
    times = jnp.asarray(times, jnp.float32)
    return jnp.where((times >= 0) & (times <= 1), times, jnp.nan)
