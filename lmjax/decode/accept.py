"""Which of the tokens that a cheap model proposed are kept, so that texts follow the model's own distribution.

Axes: J proposed tokens, W proposed tokens and one more.
"""

import jax
import jax.numpy as jnp

from lmjax.corruption.gumbel import gumbel_sample


def accept(
    keys_B: jax.Array, proposed_BJ: jax.Array, log_q_BJV: jax.Array, log_p_BWV: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns how many of the proposed tokens are kept, and the token that follows them, int32 [B] each.

    A proposed token x is kept with probability ``min(1, p(x) / q(x))``, and with it all before it were. The first that
    is not kept is replaced by a draw from ``max(p - q, 0)``, normalised; if all are kept, one more token is drawn from
    p. Each token then is a draw from p, whatever q is.

    Args:
      keys_B: a PRNG key for each row.
      proposed_BJ: int32, each drawn from q at its place.
      log_q_BJV: float32, the logarithm of what each was drawn from; -inf where excluded.
      log_p_BWV: float32, the same of the model, after each number of proposed tokens from 0 to J.

    Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", section 2.3.
    """
    num_proposed = proposed_BJ.shape[1]
    keys_B2 = jax.vmap(jax.random.split)(keys_B)
    uniform_BJ = jax.vmap(lambda key: jax.random.uniform(key, (num_proposed,)))(keys_B2[:, 0])
    at_BJ1 = proposed_BJ[..., None]
    log_p_BJ = jnp.take_along_axis(log_p_BWV[:, :num_proposed], at_BJ1, axis=-1)[..., 0]
    log_q_BJ = jnp.take_along_axis(log_q_BJV, at_BJ1, axis=-1)[..., 0]
    is_kept_BJ = uniform_BJ < jnp.exp(log_p_BJ - log_q_BJ)
    kept_B = jnp.sum(jnp.cumprod(is_kept_BJ.astype(jnp.int32), axis=1), axis=1)
    # After the last proposed token nothing was proposed: there q is 0 everywhere.
    q_BWV = jnp.pad(jnp.exp(log_q_BJV), ((0, 0), (0, 1), (0, 0)))
    p_BV, q_BV = (
        jnp.take_along_axis(array, kept_B[:, None, None], axis=1)[:, 0] for array in (jnp.exp(log_p_BWV), q_BWV)
    )
    rest_BV = jnp.maximum(p_BV - q_BV, 0.0)
    # Where p and q are equal but for rounding nothing may be left, and p is what to draw from.
    rest_BV = jnp.where(jnp.sum(rest_BV, axis=-1, keepdims=True) > 0, rest_BV, p_BV)
    return kept_B, jax.vmap(gumbel_sample)(keys_B2[:, 1], jnp.log(rest_BV))


def accept_likeliest(proposed_BJ: jax.Array, best_BW: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the same as :func:`accept` for a model that always takes its likeliest token, without random numbers.

    Args:
      proposed_BJ: int32, the proposed tokens.
      best_BW: int32, the model's likeliest token after each number of proposed tokens from 0 to J.
    """
    is_kept_BJ = proposed_BJ == best_BW[:, :-1]
    kept_B = jnp.sum(jnp.cumprod(is_kept_BJ.astype(jnp.int32), axis=1), axis=1)
    return kept_B, jnp.take_along_axis(best_BW, kept_B[:, None], axis=1)[:, 0]
