"""Prompts as arrays, and what a model can do with them."""

import dataclasses
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.models.parameters import ModuleSpec
from lmjax.models.with_extras import MODEL

Attention = Literal["causal", "bidirectional", "prefix"]

ROOM = 64
"""The room for new tokens is rounded up to a multiple of this, so that requests of similar size share a compilation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts:
    """Prompts as arrays, with the number of tokens to add to each.

    Attributes:
      tokens_BT: int32, what the texts begin with: the prompts, or a start token each if an encoder reads the prompts.
      lengths_B: int32, the numbers of tokens of these beginnings.
      read: what an encoder reads, tokens int32 [B, T] and their numbers int32 [B]; None for a single stack.
      limits: the largest number of tokens to add to each.
    """

    tokens_BT: np.ndarray
    lengths_B: np.ndarray
    read: tuple[np.ndarray, np.ndarray] | None
    limits: list[int]

    @property
    def room(self) -> int:
        """The number of cache slots to keep for new tokens."""
        return -(-max(self.limits) // ROOM) * ROOM


def laid_out(
    prompts: Sequence[Sequence[int]],
    models: Iterable[tuple[ModuleSpec, int | None]],
    *,
    max_new_tokens: int | Sequence[int],
    attention: Attention,
    start_id: int | None,
) -> Prompts:
    """Returns prompts as arrays, after the check that each model can continue them.

    Args:
      prompts: token ids, at least one each.
      models: the modules that read the prompts, each with the number of positions that it has learned; None where it
        has no such limit.
      max_new_tokens: the largest number of tokens to add, one number for all prompts or one for each.
      attention: how the models read a prompt.
      start_id: what the text of a model with an encoder begins with; ``None`` for a single stack.

    Raises:
      ValueError: a model cannot continue a prompt, see :func:`check_prompts`.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    for spec, max_length in models:
        check_prompts(
            spec, prompts, max_new_tokens=limits, max_length=max_length, attention=attention, start_id=start_id
        )
    tokens_BT, lengths_B = padded(prompts if start_id is None else [[start_id]] * len(prompts))
    read = None if start_id is None else padded(prompts)
    return Prompts(tokens_BT=tokens_BT, lengths_B=lengths_B, read=read, limits=limits)


def padded(texts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the texts as the beginnings of rows, int32 [B, T], and their lengths, int32 [B].

    T is a power of two, so that texts of similar length share one compilation.
    """
    lengths_B = np.array([len(text) for text in texts], np.int32)
    tokens_BT = np.zeros((len(texts), 1 << int(lengths_B.max() - 1).bit_length()), np.int32)
    for row, text in zip(tokens_BT, texts, strict=True):
        row[: len(text)] = text
    return tokens_BT, lengths_B


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
