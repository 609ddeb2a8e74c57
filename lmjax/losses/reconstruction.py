"""Losses of masked feature sequences: regress the patch (MAE), or name its cluster (HuBERT)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lmjax.integers import as_int32
from lmjax.losses.token import cross_entropy
from lmjax.types import IGNORE_INDEX


def masked_reconstruction_loss(
    predictions: jax.Array,
    patches: jax.Array,
    is_masked: ArrayLike,
    *,
    normalize_patches: bool = False,
    epsilon: float = 1e-6,
) -> jax.Array:
    """Mean squared error of each masked patch (He et al. 2022, §3).

    ``loss = mean over d of (prediction[d] - patch[d])²``.

    Args:
      predictions: [..., T, D], any float dtype.
      patches: [..., T, D], the true features; no gradient flows to them.
      is_masked: booleans [..., T]; the others give 0.
      normalize_patches: compare with the normalised patch: its mean is subtracted, and it is divided by its standard
        deviation (with D - 1 in the variance, as in the paper's code).
      epsilon: added to the variance.

    Returns:
      float32 [..., T], unreduced.

    Raises:
      ValueError: shapes that do not match, or patches of one number to normalise.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> predictions, patches = jnp.array([[1.0, 3.0], [9.0, 9.0]]), jnp.zeros((2, 2))
      >>> print(losses.masked_reconstruction_loss(predictions, patches, [True, False]))
      [5. 0.]
    """
    is_masked = jnp.asarray(is_masked, bool)
    if predictions.shape != patches.shape or is_masked.shape != patches.shape[:-1]:
        raise ValueError(
            f"masked_reconstruction_loss: predictions {predictions.shape}, patches {patches.shape} and "
            f"is_masked {is_masked.shape} must be [..., T, D] twice and [..., T]"
        )
    scored = is_masked[..., None]
    patches = jax.lax.stop_gradient(jnp.where(scored, patches.astype(jnp.float32), 0.0))
    predictions = jnp.where(scored, predictions.astype(jnp.float32), 0.0)
    if normalize_patches:
        if patches.shape[-1] < 2:
            raise ValueError(
                f"masked_reconstruction_loss: normalize_patches=True: patches {patches.shape} of one number have no "
                f"deviation: set it to False"
            )
        mean = jnp.mean(patches, axis=-1, keepdims=True)
        variance = jnp.var(patches, axis=-1, keepdims=True, ddof=1)
        patches = (patches - mean) / jnp.sqrt(variance + epsilon)
    errors = jnp.mean(jnp.square(predictions - patches), axis=-1)
    return jnp.where(is_masked, errors, 0.0)


def masked_cluster_loss(logits: jax.Array, clusters: ArrayLike, is_masked: ArrayLike) -> jax.Array:
    """Cross entropy of each masked frame's cluster (HuBERT, Hsu et al. 2021, §II, with α = 1).

    ``loss = logsumexp(logits) - logits[cluster]``.

    Args:
      logits: [..., T, V] over the V clusters.
      clusters: integers [..., T]; ``IGNORE_INDEX`` gives 0 as well.
      is_masked: booleans [..., T]; the others give 0.

    Returns:
      float32 [..., T], in nats, unreduced.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.masked_cluster_loss(jnp.zeros((2, 4)), [1, 2], [True, False]))  # log 4, not masked
      [1.3862944 0.       ]
    """
    clusters = as_int32(clusters, "clusters")
    return cross_entropy(logits, jnp.where(jnp.asarray(is_masked, bool), clusters, IGNORE_INDEX))
