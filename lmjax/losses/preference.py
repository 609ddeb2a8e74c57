"""Losses of a preferred and a rejected answer: DPO, IPO, and the Bradley-Terry reward model.

Each is a function of one number for each pair: the score of the chosen answer minus that of the rejected one. For DPO
(Rafailov et al. 2023, Eq. 7) the score is the implicit reward ``β (log π(y) - log π_ref(y))``.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp


def _log_ratio_difference(policy_chosen, policy_rejected, reference_chosen, reference_rejected) -> jax.Array:
    named = {
        "policy_chosen": policy_chosen,
        "policy_rejected": policy_rejected,
        "reference_chosen": reference_chosen,
        "reference_rejected": reference_rejected,
    }
    if len({jnp.shape(array) for array in named.values()}) > 1:
        shapes = ", ".join(f"{name} {jnp.shape(array)}" for name, array in named.items())
        raise ValueError(f"dpo_loss: log-probabilities must have one shape, not {shapes}")
    chosen, rejected, base_chosen, base_rejected = (jnp.asarray(x, jnp.float32) for x in named.values())
    return (chosen - rejected) - jax.lax.stop_gradient(base_chosen - base_rejected)


def reward_margins(
    policy_chosen: jax.Array,
    policy_rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    *,
    beta: float,
) -> jax.Array:
    """Implicit reward of the chosen answer minus that of the rejected one; a positive margin ranks the pair correctly.

    ``β ((log π(chosen) - log π(rejected)) - (log π_ref(chosen) - log π_ref(rejected)))`` (Rafailov et al. 2023,
    section 4).

    Args:
      policy_chosen: [...], log-probability of each chosen answer, summed over its tokens.
      policy_rejected: [...], of each rejected answer.
      reference_chosen: [...], the chosen answers under the reference model.
      reference_rejected: [...], the rejected answers under the reference model.
      beta: scale of the rewards.

    Returns:
      float32 [...].

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> policy, reference = (jnp.array([-1.0]), jnp.array([-3.0])), (jnp.array([-2.0]), jnp.array([-2.0]))
      >>> print(losses.reward_margins(*policy, *reference, beta=0.5))
      [1.]
    """
    return beta * _log_ratio_difference(policy_chosen, policy_rejected, reference_chosen, reference_rejected)


def dpo_loss(
    policy_chosen: jax.Array,
    policy_rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    *,
    beta: float | jax.Array,
    label_smoothing: float | jax.Array = 0.0,
    variant: Literal["sigmoid", "ipo"] = "sigmoid",
) -> jax.Array:
    """Direct preference optimisation, one value a pair.

    ``h`` is the chosen answer's log-ratio to the reference minus that of the rejected answer, and ``ε`` is the label
    smoothing (conservative DPO: the label is wrong with probability ``ε``):

        sigmoid: -(1 - ε) log σ(β h) - ε log σ(-β h)
        ipo:     (h - 1 / (2 β))²         (Azar et al. 2023, Eq. 17)

    Rafailov et al. 2023, Eq. 7.

    Args:
      policy_chosen: [...], log-probability of each chosen answer, summed over its tokens.
      policy_rejected: [...], of each rejected answer.
      reference_chosen: [...], the chosen answers under the reference model, a constant to the gradient.
      reference_rejected: [...], the rejected answers under the reference model.
      beta: strength of the pull to the reference, over 0, a number or a traced scalar.
      label_smoothing: ``ε``, in [0, 0.5), a number or a traced scalar; 0 for IPO.
      variant: which of the two losses.

    Returns:
      float32 [...], unreduced.

    Raises:
      ValueError: shapes that differ or a bad option.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> policy, reference = (jnp.array([-1.0]), jnp.array([-3.0])), (jnp.array([-2.0]), jnp.array([-2.0]))
      >>> print(losses.dpo_loss(*policy, *reference, beta=0.5))  # log(1 + exp(-1))
      [0.3132617]
      >>> print(losses.dpo_loss(*policy, *reference, beta=0.5, variant="ipo"))  # (2 - 1)²
      [1.]
    """
    if isinstance(beta, float | int) and not 0 < beta < math.inf:
        raise ValueError(f"dpo_loss: beta={beta}: must be over 0, and finite")
    if isinstance(label_smoothing, float | int) and not 0 <= label_smoothing < 0.5:
        raise ValueError(f"dpo_loss: label_smoothing={label_smoothing}: must be at least 0 and under 0.5")
    difference = _log_ratio_difference(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    if variant == "sigmoid":
        preferred = (1 - label_smoothing) * jax.nn.softplus(-beta * difference)
        return preferred + label_smoothing * jax.nn.softplus(beta * difference)
    if variant == "ipo":
        if isinstance(label_smoothing, jax.Array) or label_smoothing:
            raise ValueError(f"dpo_loss: label_smoothing={label_smoothing}: IPO has none, set it to 0")
        return jnp.square(difference - 1 / (2 * beta))
    raise ValueError(f"dpo_loss: variant={variant!r}: use 'sigmoid' or 'ipo'")


def bradley_terry_loss(
    chosen_rewards: jax.Array, rejected_rewards: jax.Array, *, margin: float | jax.Array = 0.0
) -> jax.Array:
    """``-log σ(r_chosen - r_rejected - margin)`` of each pair (Bradley and Terry 1952; Ouyang et al. 2022, Eq. 1).

    Args:
      chosen_rewards: [...], the reward model's score of each chosen answer.
      rejected_rewards: [...], of each rejected answer.
      margin: how much better the chosen answer should score (Touvron et al. 2023, Llama 2, Eq. 2).

    Returns:
      float32 [...], in nats, unreduced.

    Raises:
      ValueError: shapes that differ, or a margin that is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.bradley_terry_loss(jnp.array([2.0, 3.0]), jnp.array([2.0, 2.0])))
      [0.6931472 0.3132617]
    """
    if isinstance(margin, float | int) and not math.isfinite(margin):
        raise ValueError(f"bradley_terry_loss: margin={margin}: must be finite")
    if chosen_rewards.shape != rejected_rewards.shape:
        raise ValueError(
            f"bradley_terry_loss: chosen_rewards {chosen_rewards.shape} and rejected_rewards "
            f"{rejected_rewards.shape} differ"
        )
    difference = chosen_rewards.astype(jnp.float32) - rejected_rewards.astype(jnp.float32)
    return jax.nn.softplus(margin - difference)
