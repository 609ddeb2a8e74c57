"""Masked-token corruption: a share of the tokens is hidden, and the model predicts them.

BERT (Devlin et al. 2019, section 3.1): of the chosen tokens 80% become the mask token, 10% a random token and 10%
stay. RoBERTa (Liu et al. 2019, section 4.1) chooses other tokens each time a row is read; here a key that changes
with the step does the same.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lmjax.corruption.ids import check_ids, is_special, random_ids
from lmjax.integers import as_int32
from lmjax.rates import check_rate
from lmjax.types import IGNORE_INDEX


def mask_tokens(
    key: jax.Array,
    tokens: jax.Array,
    *,
    vocab_size: int,
    mask_id: int,
    special_ids: Sequence[int] = (),
    rate: float | jax.Array = 0.15,
    mask_fraction: float | jax.Array = 0.8,
    random_fraction: float | jax.Array = 0.1,
    segments: jax.Array | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> tuple[jax.Array, jax.Array]:
    """Chooses each ordinary token with probability ``rate``, independently, and hides it.

    A chosen token becomes ``mask_id`` with probability ``mask_fraction``, an ordinary id drawn
    uniformly with probability ``random_fraction``, and else stays as it is. Special tokens,
    ``mask_id`` itself and padding are never chosen and never drawn.

    Devlin et al. 2019 (BERT), section 3.1.

    Args:
      key: PRNG key.
      tokens: int32 ids of any shape, usually [B, T].
      vocab_size: ids are below this.
      mask_id: the mask token.
      special_ids: ids that are never chosen.
      rate: probability of a token to be chosen; may be traced, so that it can follow a schedule.
      mask_fraction: share of the chosen tokens that are masked.
      random_fraction: share of the chosen tokens that are replaced.
      segments: document of each token, 0 for padding, in the shape of ``tokens``; ``None``: no padding.
      ignore_index: the label of tokens that were not chosen.

    Returns:
      ``(inputs, labels)``, int32 in the shape of ``tokens``: the corrupted tokens, and the
      original ids where a token was chosen, ``ignore_index`` elsewhere.

    Raises:
      ValueError: a rate outside of [0, 1], fractions summing above 1, or an id outside of the vocabulary.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from lmjax import corruption
      >>> key, tokens = jax.random.key(0), jnp.array([[1, 5, 6]])
      >>> options = {"vocab_size": 10, "mask_id": 9, "special_ids": (1,), "rate": 1.0}
      >>> inputs, labels = corruption.mask_tokens(key, tokens, **options, mask_fraction=1.0, random_fraction=0.0)
      >>> print(inputs, labels)
      [[1 9 9]] [[-100    5    6]]
    """
    check_rate("mask_tokens", rate=rate)
    check_ids("mask_tokens", vocab_size=vocab_size, mask_id=mask_id, special_ids=special_ids)
    tokens = as_int32(tokens, "tokens")
    eligible = ~is_special(tokens, vocab_size=vocab_size, special_ids=(*special_ids, mask_id))
    if segments is not None:
        eligible &= segments != 0
    choose_key, replace_key = jax.random.split(key)
    # The draw of a chosen token is uniform on [0, rate), so the same draw divided by the rate decides what it
    # becomes.
    draw = jax.random.uniform(choose_key, tokens.shape)
    chosen = eligible & (draw < rate)
    inputs = hide(
        replace_key,
        tokens,
        chosen,
        draw / jnp.maximum(rate, jnp.finfo(draw.dtype).tiny),
        vocab_size=vocab_size,
        mask_id=mask_id,
        special_ids=special_ids,
        mask_fraction=mask_fraction,
        random_fraction=random_fraction,
    )
    return inputs, jnp.where(chosen, tokens, ignore_index)


def hide(
    key: jax.Array,
    tokens: jax.Array,
    chosen: jax.Array,
    fate: jax.Array,
    *,
    vocab_size: int,
    mask_id: int,
    special_ids: Sequence[int],
    mask_fraction: float | jax.Array,
    random_fraction: float | jax.Array,
) -> jax.Array:
    """Masks, replaces or keeps the chosen tokens, by ``fate``.

    Args:
      key: PRNG key of the random replacements.
      tokens: int32 ids.
      chosen: bool, which tokens to hide.
      fate: float in [0, 1): below ``mask_fraction`` a chosen token is masked, below
        ``mask_fraction + random_fraction`` replaced, above kept. Tokens with the same value are treated alike; words
        and spans are hidden as a whole in this way.
      vocab_size: ids are below this.
      mask_id: the mask token.
      special_ids: ids never drawn as replacements.
      mask_fraction: share of the chosen tokens that are masked.
      random_fraction: share of the chosen tokens that are replaced.

    Raises:
      ValueError: the fractions are outside of [0, 1] or sum above 1.
    """
    check_rate("corruption", mask_fraction=mask_fraction, random_fraction=random_fraction)
    both = mask_fraction + random_fraction
    if isinstance(both, int | float) and both > 1 + 1e-6:
        raise ValueError(
            f"corruption: mask_fraction={mask_fraction} and random_fraction={random_fraction} "
            f"sum to more than 1: lower one of them"
        )
    masked = jnp.where(chosen & (fate < mask_fraction), mask_id, tokens)
    if isinstance(random_fraction, int | float) and random_fraction == 0:
        return masked
    drawn = random_ids(key, tokens.shape, vocab_size=vocab_size, special_ids=(*special_ids, mask_id))
    replaced = chosen & (fate >= mask_fraction) & (fate < mask_fraction + random_fraction)
    return jnp.where(replaced, drawn, masked)
