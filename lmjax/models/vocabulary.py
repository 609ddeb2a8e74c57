"""Extension of a model's vocabulary: tables get rows for new ids, and the old rows stay bit for bit the same."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from lmjax.models.parameters import Params


def extend_vocabulary(params: Params, axes: Params, *, pieces: Mapping[int, Sequence[int]], vocab_size: int) -> Params:
    """Extends the parameters along every axis named ``"vocab"``; a new entry is a mean of old entries.

    The embedding of a new token begins as the mean of the embeddings of the old tokens that its text consisted of. The
    columns and biases of an untied head begin likewise (Gee et al. 2022, section 3).

    Args:
      params: the parameters of the model as it is.
      axes: for each parameter, the names of its dimensions (``ModuleSpec.axes``).
      pieces: for each new id, the old ids that its text consisted of; ids are below ``vocab_size``.
      vocab_size: size of the extended axes; entries that are neither old nor new are padding and are zero.

    Returns:
      The extended parameters, in the same structure.

    Raises:
      ValueError: the axes would shrink, or a new token has no pieces.
    """
    if empty := [token_id for token_id, ids in pieces.items() if not len(ids)]:
        raise ValueError(f"new ids {empty[:3]} have no old pieces to begin with: leave those tokens out")

    def extend(leaf: jax.Array, names: tuple[str, ...]) -> jax.Array:
        if "vocab" not in names:
            return leaf
        axis = names.index("vocab")
        if vocab_size < leaf.shape[axis]:
            raise ValueError(
                f"vocab_size={vocab_size} is smaller than the {leaf.shape[axis]} rows there are: tables never shrink"
            )
        table = jnp.moveaxis(leaf, axis, 0)
        grown = jnp.concatenate([table, jnp.zeros((vocab_size - len(table), *table.shape[1:]), table.dtype)])
        for token_id, ids in pieces.items():
            grown = grown.at[token_id].set(jnp.mean(table[jnp.asarray(ids)], axis=0))
        return jnp.moveaxis(grown, 0, axis)

    return jax.tree.map(extend, params, axes)
