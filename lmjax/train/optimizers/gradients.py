"""What the training step does with gradients and parameters outside of the optimizer: clipping and averaging."""

from typing import TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")


def clip_by_norm(grads: Tree, *, norm: jax.Array, max_norm: float | None) -> Tree:
    """Returns gradients times ``min(1, max_norm / norm)``, in their dtypes (Pascanu et al. 2013, algorithm 1).

    Args:
      grads: the gradients.
      norm: their global norm, ``optax.tree.norm(grads)``, which the step reports as well.
      max_norm: the bound; ``None`` returns ``grads`` unchanged.
    """
    if max_norm is None:
        return grads
    scale = max_norm / jnp.maximum(norm, max_norm)
    return jax.tree.map(lambda grad: grad * scale.astype(grad.dtype), grads)


def ema_update(ema: Tree, params: Tree, step: jax.Array, *, decay: float, warm_up: bool = True) -> Tree:
    """Returns an exponential moving average after one step, ``d ema + (1 - d) params``, in the dtype of ``ema``.

    Args:
      ema: the average, which starts as a copy of the parameters.
      params: the parameters after this step's update.
      step: the number of updates before this one, from 0.
      decay: the limit of ``d``, in [0, 1).
      warm_up: whether ``d = min(decay, (1 + step) / (10 + step))``, so that the first parameters are soon forgotten.
    """
    step = jnp.asarray(step).astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + step) / (10 + step)) if warm_up else jnp.float32(decay)
    return jax.tree.map(lambda old, new: (kept * old + (1 - kept) * new).astype(old.dtype), ema, params)
