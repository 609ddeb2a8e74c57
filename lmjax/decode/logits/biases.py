"""Processors that favour or exclude given tokens, whatever the text."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.decode.logits.checks import check_value


def logit_bias(logits: jax.Array, biases: Sequence[tuple[int, float]]) -> jax.Array:
    """Adds to the logit of each token what ``biases`` gives for its id; a token that is named twice gets both.

    Args:
      logits: float32 [..., V].
      biases: pairs of a token id and a summand.

    Raises:
      ValueError: a summand is not finite or too large, or an id is not in the vocabulary.
    """
    for _, bias in biases:
        check_value("logit_bias", bias)
    ids = _checked([token_id for token_id, _ in biases], logits.shape[-1], "logit_bias")
    bias_V = np.zeros(logits.shape[-1], np.float32)
    np.add.at(bias_V, ids, [bias for _, bias in biases])
    return logits + bias_V.reshape((1,) * (logits.ndim - 1) + (-1,))


def allow_tokens(logits: jax.Array, ids: Sequence[int]) -> jax.Array:
    """Excludes every token but those of ``ids``.

    Args:
      logits: float32 [..., V].
      ids: at least one.

    Raises:
      ValueError: there is no id, or one is not in the vocabulary.
    """
    if not ids:
        raise ValueError("allowed_tokens=(): no token would be left: name at least one")
    return jnp.where(_among(ids, logits, "allowed_tokens"), logits, -jnp.inf)


def ban_tokens(logits: jax.Array, ids: Sequence[int]) -> jax.Array:
    """Excludes the tokens of ``ids``.

    Args:
      logits: float32 [..., V].
      ids: any number.

    Raises:
      ValueError: an id is not in the vocabulary.
    """
    return jnp.where(_among(ids, logits, "banned_tokens"), -jnp.inf, logits)


def _among(ids: Sequence[int], logits: jax.Array, name: str) -> np.ndarray:
    """Whether each id of the vocabulary is one of ``ids``, bool [1, ..., V]."""
    is_named_V = np.zeros(logits.shape[-1], bool)
    is_named_V[_checked(ids, logits.shape[-1], name)] = True
    return is_named_V.reshape((1,) * (logits.ndim - 1) + (-1,))


def _checked(ids: Sequence[int], vocab_size: int, name: str) -> np.ndarray:
    if outside := [token_id for token_id in ids if not 0 <= token_id < vocab_size]:
        raise ValueError(f"{name}: token id {outside[0]} is not in the vocabulary of {vocab_size}")
    return np.asarray(ids, np.int64)
