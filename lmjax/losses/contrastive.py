"""InfoNCE: a query should score its own key above all the others (van den Oord et al. 2018, §2.3).

Axes: S keys, K hard negatives.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def info_nce(
    queries: jax.Array,
    keys: jax.Array,
    *,
    temperature: ArrayLike,
    hard_negatives: jax.Array | None = None,
    in_batch: bool = True,
    symmetric: bool = False,
    valid: jax.Array | None = None,
    valid_negatives: jax.Array | None = None,
) -> jax.Array:
    """Negative log-probability that each query picks its own key.

        loss_i = -log(exp(q_i·k_i / τ) / Σ_j exp(q_i·k_j / τ)),   j over the keys and hard negatives

    The source is van den Oord et al. 2018, section 2.3. Scores are dot products: give unit vectors for cosine
    similarity. Inside ``jit`` arrays are global, so on a mesh the negatives are those of all devices.

    Args:
      queries: [B, D].
      keys: [B, D]; ``keys[i]`` is the positive of ``queries[i]``.
      temperature: τ > 0, a number or a traced scalar (a learned one).
      hard_negatives: [B, K, D], K more negatives for each query, or [M, D], M more negatives shared by all queries.
      in_batch: whether the keys of other queries are negatives; ``False`` uses the hard negatives only.
      symmetric: average with the loss of picking the query for each key, in batch (CLIP, Radford et al. 2021,
        section 2.3).
      valid: bool [B], False for a pair that is padding of the batch: its loss is 0, and it is a negative of no query.
      valid_negatives: bool [B, K] or [M], False for hard negatives that are padding.

    Returns:
      float32 [B], in nats, unreduced.

    Raises:
      ValueError: shapes that do not match, no negatives left to choose from, or a temperature that is
        a number and not over 0 and finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> vectors = jnp.eye(2)
      >>> print(losses.info_nce(vectors, vectors, temperature=1.0))  # log(e + 1) - 1
      [0.31326163 0.31326163]
    """
    _check(queries, keys, hard_negatives, in_batch=in_batch, symmetric=symmetric)
    if isinstance(temperature, float | int) and not 0 < temperature < math.inf:
        raise ValueError(f"info_nce: temperature={temperature}: must be over 0, and finite")
    queries = _only(valid, queries.astype(jnp.float32)) / temperature
    own_B, others_BS, hard_BK = _scores(queries, keys, hard_negatives, valid, valid_negatives)
    candidates = [own_B[:, None], *([others_BS] if in_batch else []), *([] if hard_BK is None else [hard_BK])]
    loss_B = jax.nn.logsumexp(jnp.concatenate(candidates, axis=1), axis=1) - own_B
    if symmetric:
        others_SB = others_BS.T if valid is None else jnp.where(valid[None, :], others_BS.T, -jnp.inf)
        turned = jnp.concatenate([own_B[:, None], others_SB], axis=1)
        loss_B = (loss_B + jax.nn.logsumexp(turned, axis=1) - own_B) / 2
    return loss_B if valid is None else jnp.where(valid, loss_B, 0.0)


def retrieval_accuracy(
    queries: jax.Array,
    keys: jax.Array,
    *,
    hard_negatives: jax.Array | None = None,
    valid: jax.Array | None = None,
    valid_negatives: jax.Array | None = None,
) -> jax.Array:
    """Whether each query's own key scores above all others, float32 [B] of 0 and 1 (accuracy@1 unreduced).

    1 where ``q_i·k_i > q_i·k_j`` for every other key j (top-1 retrieval accuracy, Karpukhin et al. 2020, section 5).

    A pair that is not ``valid`` gives 0. Arguments are those of :func:`info_nce`. A tie counts as wrong, so a model
    that gives every text the same vector has accuracy 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> print(losses.retrieval_accuracy(jnp.eye(2), jnp.array([[1.0, 0.0], [2.0, 1.0]])))
      [0. 1.]
    """
    _check(queries, keys, hard_negatives, in_batch=True, symmetric=False)
    own_B, others_BS, hard_BK = _scores(
        _only(valid, queries.astype(jnp.float32)), keys, hard_negatives, valid, valid_negatives
    )
    highest_B = jnp.max(others_BS, axis=1, initial=-jnp.inf)
    if hard_BK is not None:
        highest_B = jnp.maximum(highest_B, jnp.max(hard_BK, axis=1, initial=-jnp.inf))
    right_B = own_B > highest_B
    return (right_B if valid is None else right_B & valid).astype(jnp.float32)


def _only(valid: jax.Array | None, vectors: jax.Array) -> jax.Array:
    """The vectors that are there, zeros for the others: 0 times what is not finite would be NaN in the gradient."""
    return vectors if valid is None else jnp.where(jnp.asarray(valid)[..., None], vectors, 0.0)


def _scores(
    queries: jax.Array,
    keys: jax.Array,
    hard_negatives: jax.Array | None,
    valid: jax.Array | None,
    valid_negatives: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns each query's scores of its own key, the other keys and the hard negatives; -inf where there is none."""
    keys = _only(valid, keys.astype(jnp.float32))
    own_B = jnp.einsum("bd,bd->b", queries, keys)
    competes_BS = ~jnp.eye(queries.shape[0], dtype=bool)
    if valid is not None:
        competes_BS &= valid[None, :]
    others_BS = jnp.where(competes_BS, jnp.einsum("bd,sd->bs", queries, keys), -jnp.inf)
    if hard_negatives is None:
        return own_B, others_BS, None
    equation = "bd,bkd->bk" if hard_negatives.ndim == 3 else "bd,kd->bk"
    hard_BK = jnp.einsum(equation, queries, _only(valid_negatives, hard_negatives.astype(jnp.float32)))
    if valid_negatives is not None:
        hard_BK = jnp.where(jnp.broadcast_to(valid_negatives, hard_BK.shape), hard_BK, -jnp.inf)
    return own_B, others_BS, hard_BK


def _check(queries, keys, hard_negatives, *, in_batch: bool, symmetric: bool) -> None:
    if queries.ndim != 2 or queries.shape != keys.shape:
        raise ValueError(f"info_nce: queries {queries.shape} and keys {keys.shape} must both be [B, D]")
    if hard_negatives is not None:
        rows, width = queries.shape
        shape = hard_negatives.shape
        per_query = len(shape) == 3 and shape[0] == rows
        if not (per_query or len(shape) == 2) or shape[-1] != width:
            raise ValueError(
                f"info_nce: hard_negatives {shape} must be [{rows}, K, {width}] (each query's own) "
                f"or [M, {width}] (for all)"
            )
    if not in_batch and (hard_negatives is None or symmetric):
        raise ValueError("info_nce: in_batch=False needs hard_negatives, and cannot be symmetric")
