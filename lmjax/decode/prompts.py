"""Prompts as arrays, and what a model can do with them."""

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.models.parameters import ModuleSpec
from lmjax.models.with_extras import MODEL

Attention = Literal["causal", "bidirectional", "prefix"]

ROOM = 64
"""The room for new tokens is rounded up to a multiple of this, so that requests of similar size share a compilation."""


def padded(texts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the texts as the beginnings of rows, int32 [B, T], and their lengths, int32 [B].

    T is a power of two, so that texts of similar length share one compilation.
    """
    lengths_B = np.array([len(text) for text in texts], np.int32)
    tokens_BT = np.zeros((len(texts), 1 << int(lengths_B.max() - 1).bit_length()), np.int32)
    for row, text in zip(tokens_BT, texts, strict=True):
        row[: len(text)] = text
    return tokens_BT, lengths_B


def room_for(max_new_tokens: int) -> int:
    """Returns the number of cache slots to keep for new tokens."""
    return -(-max_new_tokens // ROOM) * ROOM


def row_keys(prompts: Sequence[Sequence[int]], seed: int) -> jax.Array:
    """Returns a PRNG key for each prompt, [B].

    A key is a function of the seed, the prompt, and how many equal prompts stand before it. The text of a prompt is
    then the same whatever other prompts there are, and equal prompts get different texts.
    """
    seen: Counter[bytes] = Counter()
    numbers = []
    for prompt in prompts:
        content = np.asarray(prompt, np.int32).tobytes()
        numbers.append((zlib.crc32(content), seen[content]))
        seen[content] += 1
    fold = jax.vmap(lambda key, number: jax.random.fold_in(jax.random.fold_in(key, number[0]), number[1]), (None, 0))
    return fold(jax.random.key(seed), jnp.asarray(np.array(numbers, np.uint32)))


def check_prompts(
    spec: ModuleSpec,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: Sequence[int],
    max_length: int | None,
    attention: Attention,
    start_id: int | None,
) -> None:
    """Refuses prompts that a model cannot continue.

    Args:
      spec: the module.
      prompts: token ids.
      max_new_tokens: the number of tokens to add to each.
      max_length: the number of positions a stack of the model has, where that is limited.
      attention: how the model reads a prompt.
      start_id: what the text of a model with an encoder begins with.

    Raises:
      ValueError: naming what is wrong.
    """
    if attention == "bidirectional":
        raise ValueError(
            "this model was trained bidirectionally and does not continue text: sample a causal or prefix model, or "
            "let this one name what is masked (lmjax fill-mask)"
        )
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("prompt: give at least one token (a beginning-of-text token, if the tokenizer has one)")
    if (start_id is not None) != ("encoder" in spec.shapes.get(MODEL, spec.shapes)):
        raise ValueError(f"start_id={start_id}: a model with an encoder needs one, and no other model takes it")
    lengths = [len(prompt) for prompt in prompts]
    if start_id is None:
        longest = max(length + new for length, new in zip(lengths, max_new_tokens, strict=True))
    else:
        longest = max(1 + max(max_new_tokens), *lengths)
    if max_length is not None and longest > max_length:
        raise ValueError(
            f"prompt and new tokens make {longest} positions and the model has learned {max_length}: "
            f"shorten the prompt or max_new_tokens"
        )
