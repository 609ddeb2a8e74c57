"""InfoNCE: a query should score its own key above all the others (van den Oord et al. 2018, §2.3)."""

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
) -> jax.Array:
    """Negative log-probability that each query picks its own key.

        loss_i = -log(exp(q_i·k_i / τ) / Σ_j exp(q_i·k_j / τ)),   j over the keys and hard negatives

    Scores are dot products: give unit vectors for cosine similarity. Inside ``jit`` arrays are global,
    so on a mesh the negatives are those of all devices.

    Args:
      queries: [B, D].
      keys: [B, D]; ``keys[i]`` is the positive of ``queries[i]``.
      temperature: τ > 0, a number or a traced scalar (a learned one).
      hard_negatives: [B, K, D], K more negatives for each query alone, or [M, D], for every query.
      in_batch: whether the other queries' keys are negatives; ``False`` leaves only the hard ones.
      symmetric: average with the loss of picking the query for each key, in batch (CLIP, §2.3).

    Returns:
      float32 [B], in nats, unreduced.

    Raises:
      ValueError: shapes that do not match, no negatives left to choose from, or a temperature that is
        a number and not over 0.
    """
    _check(queries, keys, hard_negatives, in_batch=in_batch, symmetric=symmetric)
    if isinstance(temperature, float | int) and temperature <= 0:
        raise ValueError(f"info_nce: temperature={temperature}: must be over 0")
    queries = queries.astype(jnp.float32) / temperature
    keys = keys.astype(jnp.float32)
    own_B = jnp.einsum("bd,bd->b", queries, keys)
    scores_BS = jnp.einsum("bd,sd->bs", queries, keys) if in_batch else own_B[:, None]
    candidates = scores_BS
    if hard_negatives is not None:
        equation = "bd,bkd->bk" if hard_negatives.ndim == 3 else "bd,kd->bk"
        hard_BK = jnp.einsum(equation, queries, hard_negatives.astype(jnp.float32))
        candidates = jnp.concatenate([scores_BS, hard_BK], axis=1)
    loss_B = jax.nn.logsumexp(candidates, axis=1) - own_B
    if not symmetric:
        return loss_B
    return (loss_B + jax.nn.logsumexp(scores_BS, axis=0) - own_B) / 2


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
