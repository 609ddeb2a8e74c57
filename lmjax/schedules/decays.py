"""Probabilities that fall during training: pure functions of the step (Bengio et al. 2015, section 2.4)."""

import jax
import jax.numpy as jnp

from lmjax.rates import check_rate


def linear_decay(step: jax.Array | int, *, num_steps: int, start: float = 1.0, end: float = 0.0) -> jax.Array:
    """Moves from ``start`` to ``end`` along a line over ``num_steps`` steps, then stays at ``end`` (a float32 scalar).

    ``start + (end - start) min(step / num_steps, 1)`` (Bengio et al. 2015, section 2.4).

    Raises:
      ValueError: ``num_steps`` is below 1, or an end of the line is no probability.

    Example:
      >>> from lmjax import corruption
      >>> print(corruption.linear_decay(5, num_steps=10))
      0.5
    """
    check_rate("linear_decay", start=start, end=end)
    if num_steps < 1:
        raise ValueError(f"linear_decay: num_steps={num_steps}: must be at least 1")
    progress = jnp.clip(jnp.asarray(step, jnp.float32) / num_steps, 0.0, 1.0)
    return start + (end - start) * progress


def exponential_decay(step: jax.Array | int, *, base: float) -> jax.Array:
    """Returns ``base ** step``, a float32 scalar.

    Bengio et al. 2015, section 2.4.

    Raises:
      ValueError: ``base`` is not in (0, 1).

    Example:
      >>> from lmjax import corruption
      >>> print(corruption.exponential_decay(3, base=0.5))
      0.125
    """
    if not 0 < base < 1:
        raise ValueError(f"exponential_decay: base={base}: must be above 0 and below 1")
    return jnp.power(jnp.float32(base), jnp.asarray(step, jnp.float32))


def inverse_sigmoid_decay(step: jax.Array | int, *, k: float) -> jax.Array:
    """Returns ``k / (k + exp(step / k))``: it falls slowly at first, fastest around step ``k log k``.

    Bengio et al. 2015, section 2.4.

    Raises:
      ValueError: ``k`` is below 1.

    Example:
      >>> from lmjax import corruption
      >>> print(corruption.inverse_sigmoid_decay(0, k=1.0))
      0.5
    """
    if not k >= 1:
        raise ValueError(f"inverse_sigmoid_decay: k={k}: must be at least 1")
    # The same as a sigmoid, which does not overflow at late steps.
    return jax.nn.sigmoid(jnp.log(jnp.float32(k)) - jnp.asarray(step, jnp.float32) / k)
