"""Replaced-token detection: a generator's samples in place of tokens.

ELECTRA (Clark et al. 2020, section 2).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lmjax.corruption.gumbel import gumbel_sample
from lmjax.integers import as_int32


def replace_tokens(
    key: jax.Array,
    tokens_BT: jax.Array,
    scored_BP: jax.Array,
    logits_BPV: jax.Array,
    *,
    filled_BP: jax.Array | None = None,
    temperature: float | jax.Array = 1.0,
    forbidden_ids: Sequence[int] = (),
) -> tuple[jax.Array, jax.Array]:
    """Replaces each scored position by a token that is sampled from the generator's logits.

    Sampling is by :func:`lmjax.corruption.gumbel_sample`, through which no gradient flows. A sample that happens to be
    the original token is labelled original.

    Clark et al. 2020 (ELECTRA), section 2.

    Args:
      key: PRNG key.
      tokens_BT: int32 ids before any masking.
      scored_BP: int32, the positions at which the generator's input was masked.
      logits_BPV: the generator's logits at these positions.
      filled_BP: bool, which of the P slots are in use; ``None``: all.
      temperature: temperature of the sampling distribution, above 0; may be traced.
      forbidden_ids: ids never sampled.

    Returns:
      ``(inputs_BT, replaced_BT)``: the discriminator's input, and which tokens are not the original
      (bool).

    Raises:
      ValueError: ``temperature`` is not above 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> tokens_BT, scored_BP = jnp.array([[5, 6]]), jnp.array([[1]])
      >>> logits_BPV = jnp.where(jnp.arange(8) == 7, 0.0, -jnp.inf)[None, None]
      >>> inputs_BT, replaced_BT = corruption.replace_tokens(jax.random.key(0), tokens_BT, scored_BP, logits_BPV)
      >>> print(inputs_BT, replaced_BT)
      [[5 7]] [[False  True]]
    """
    if isinstance(temperature, int | float) and not 0 < temperature < math.inf:
        raise ValueError(f"replace_tokens: temperature={temperature}: must be above 0, and finite")
    tokens_BT, scored_BP = as_int32(tokens_BT, "tokens_BT"), as_int32(scored_BP, "scored_BP")
    logits_BPV = logits_BPV.astype(jnp.float32)
    if forbidden_ids:
        logits_BPV = logits_BPV.at[:, :, jnp.asarray(forbidden_ids)].set(-jnp.inf)
    sampled_BP = gumbel_sample(key, logits_BPV / temperature)
    length = tokens_BT.shape[1]
    target_BP = scored_BP if filled_BP is None else jnp.where(filled_BP, scored_BP, length)
    put = jax.vmap(lambda row, at, new: row.at[at].set(new, mode="drop"))
    inputs_BT = put(tokens_BT, target_BP, sampled_BP)
    return inputs_BT, inputs_BT != tokens_BT
