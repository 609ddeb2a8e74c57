"""Texts that are being written: their tokens, what the model remembers of them, and the loop that adds to them.

Everything that writes text with a cache uses this file: sampling, beam search, contrastive search, and objectives that
train on what their own model writes. Rows are independent of each other. A token's cache slot is its position in its
own row, so no slot holds padding, and the interval ``[0, position + 1)`` is what a token sees.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from lmjax.masks import IntervalMask
from lmjax.models.cache import Cache, LayerCache, empty_cache
from lmjax.models.transformer import Transformer
from lmjax.types import Stream


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reading:
    """What an encoder has read, as a decoder attends to it.

    Attributes:
      sources: keys and values of each of the decoder's layers.
      lengths_B: int32, the number of tokens read in each row.
    """

    sources: tuple[LayerCache, ...]
    lengths_B: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draft:
    """Texts that are being written, one a row; all have gained the same number of tokens.

    Attributes:
      tokens_BS: int32, the prompt of each row and, without a gap, what was added; then zeros.
      prompt_lengths_B: int32, the number of tokens of each prompt.
      num_new: int32, a scalar, the number of tokens that were added to each row.
      hidden_BD: the model's hidden state at the last token of each row.
      done_B: whether the end of the text was added already.
      caches: what the model remembers, one for each layer.
      reading: what the encoder has read, for models that have one.
    """

    tokens_BS: jax.Array
    prompt_lengths_B: jax.Array
    num_new: jax.Array
    hidden_BD: jax.Array
    done_B: jax.Array
    caches: tuple[Cache, ...]
    reading: Reading | None = None

    @property
    def lengths(self) -> jax.Array:
        """The number of tokens of each row, int32 [B]."""
        return self.prompt_lengths_B + self.num_new

    def rows(self, index_C: jax.Array) -> "Draft":
        """Returns the draft whose rows are those of ``index_C``; a row may be taken several times."""
        return jax.tree.map(lambda leaf: leaf[index_C] if leaf.ndim else leaf, self)


Choose = Callable[[tuple[jax.Array, ...], Draft], jax.Array]
"""A function from the logits [B, V] of each model, and the first model's draft, to the next tokens, int32 [B]."""


def read_with_encoder(model: Transformer, tokens_BT: jax.Array, lengths_B: jax.Array) -> Reading:
    """Runs the encoder on the first ``lengths_B`` tokens of each row."""
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None, :], tokens_BT.shape)
    mask = _whole(lengths_B, tokens_BT.shape[1])
    hidden = model.encode(Stream(tokens_BT=tokens_BT, positions_BT=positions_BT, mask=mask))
    return Reading(model.remember(hidden.states_BTD), lengths_B)


def read_prompts(
    model: Transformer,
    tokens_BT: jax.Array,
    lengths_B: jax.Array,
    *,
    room: int,
    prefix: bool = False,
    reading: Reading | None = None,
) -> tuple[Draft, jax.Array]:
    """Runs the model on prompts.

    Args:
      model: the model, its layers unstacked (``model.unstack()``).
      tokens_BT: int32, the prompts, each at the beginning of its row.
      lengths_B: int32, the number of tokens of each prompt, at least 1.
      room: the number of tokens that may be added.
      prefix: whether the tokens of a prompt see all of it, instead of what stands before them.
      reading: what the encoder has read, for models that have one.

    Returns:
      The draft, and the hidden states [B, T + room, D] of the prompts' tokens, by position; zeros elsewhere.
    """
    num_rows, padded = tokens_BT.shape
    prompt_BT, positions_BT = aligned(tokens_BT, lengths_B, outside=padded + room)
    least_end_BT = jnp.broadcast_to(lengths_B[:, None], tokens_BT.shape) if prefix else None
    caches = empty_cache(model.config, batch_size=num_rows, length=padded + room)
    states_BTD, caches = extend(model, prompt_BT, positions_BT, caches, reading, least_end_BT=least_end_BT)
    draft = Draft(
        tokens_BS=jnp.pad(tokens_BT, ((0, 0), (0, room))),
        prompt_lengths_B=lengths_B,
        num_new=jnp.zeros((), jnp.int32),
        hidden_BD=states_BTD[:, -1],
        done_B=jnp.zeros((num_rows,), bool),
        caches=caches,
        reading=reading,
    )
    zeros_BSD = jnp.zeros((num_rows, padded + room, states_BTD.shape[-1]), states_BTD.dtype)
    row_B1 = jnp.arange(num_rows)[:, None]
    return draft, zeros_BSD.at[row_B1, positions_BT].set(states_BTD, mode="drop")


def aligned(tokens_BT: jax.Array, lengths_B: jax.Array, *, outside: int) -> tuple[jax.Array, jax.Array]:
    """Returns texts moved to the ends of their rows, and the position of each token in its text, int32 [B, T] each.

    A recurrent layer would read padding after a text as text, so the padding is put before it. Its position is
    ``outside``, beyond the cache, where nothing is written.
    """
    padded = tokens_BT.shape[1]
    index_BT = jnp.arange(padded, dtype=jnp.int32)[None, :] + (lengths_B[:, None] - padded)
    positions_BT = jnp.where(index_BT >= 0, index_BT, outside)
    return jnp.take_along_axis(tokens_BT, jnp.maximum(index_BT, 0), axis=1), positions_BT


def add_token(model: Transformer, draft: Draft, token_B: jax.Array, *, eos_id: int | None = None) -> Draft:
    """Runs the model on one more token of each row, and returns the draft with it."""
    lengths_B = draft.lengths
    states_B1D, caches = extend(model, token_B[:, None], lengths_B[:, None], draft.caches, draft.reading)
    return dataclasses.replace(
        draft,
        tokens_BS=draft.tokens_BS.at[jnp.arange(len(token_B)), lengths_B].set(token_B, mode="drop"),
        num_new=draft.num_new + 1,
        hidden_BD=states_B1D[:, 0],
        done_B=draft.done_B if eos_id is None else draft.done_B | (token_B == eos_id),
        caches=caches,
    )


def write(
    models: Sequence[Transformer],
    drafts: tuple[Draft, ...],
    choose: Choose,
    *,
    until: jax.Array | int,
    eos_id: int | None = None,
) -> tuple[Draft, ...]:
    """Adds tokens to texts, one at a time, until ``until`` were added to each, or all texts have ended.

    Args:
      models: one model, or several that choose each token together.
      drafts: the draft of each model; all hold the same texts.
      choose: see :data:`Choose`.
      until: the number of new tokens that each row is to have at the end; the drafts have room for them.
      eos_id: the token that ends a text; None if none does.

    Returns:
      The drafts with the new tokens. A text that ended before the others has gained further tokens, which mean nothing.
    """

    def unfinished(drafts: tuple[Draft, ...]) -> jax.Array:
        return (drafts[0].num_new < until) & ~jnp.all(drafts[0].done_B)

    def advance(drafts: tuple[Draft, ...]) -> tuple[Draft, ...]:
        logits = tuple(model.logits(draft.hidden_BD) for model, draft in zip(models, drafts, strict=True))
        token_B = choose(logits, drafts[0])
        return tuple(
            add_token(model, draft, token_B, eos_id=eos_id) for model, draft in zip(models, drafts, strict=True)
        )

    return jax.lax.while_loop(unfinished, advance, drafts)


def extend(
    model: Transformer,
    tokens_BT: jax.Array,
    positions_BT: jax.Array,
    caches: tuple[Cache, ...],
    reading: Reading | None,
    *,
    least_end_BT: jax.Array | None = None,
) -> tuple[jax.Array, tuple[Cache, ...]]:
    """Returns the hidden states [B, T, D] of new tokens, and the caches that hold them."""
    stream = new_stream(tokens_BT, positions_BT, least_end_BT=least_end_BT)
    if reading is None:
        return model.extend(stream, caches)
    cross_mask = _whole(reading.lengths_B, tokens_BT.shape[1])
    return model.extend(stream, caches, sources=reading.sources, cross_mask=cross_mask)


def new_stream(tokens_BT: jax.Array, positions_BT: jax.Array, *, least_end_BT: jax.Array | None = None) -> Stream:
    """Returns new tokens as a model reads them: each sees all slots up to its own, and up to ``least_end_BT``."""
    end_BT = positions_BT + 1 if least_end_BT is None else jnp.maximum(positions_BT + 1, least_end_BT)
    mask = IntervalMask(start_BT=jnp.zeros_like(end_BT), end_BT=end_BT)
    return Stream(tokens_BT=tokens_BT, positions_BT=positions_BT, mask=mask)


def _whole(lengths_B: jax.Array, num_queries: int) -> IntervalMask:
    """The mask by which every query of a row sees the first ``lengths_B`` positions of it."""
    end_BT = jnp.broadcast_to(lengths_B[:, None], (len(lengths_B), num_queries))
    return IntervalMask(start_BT=jnp.zeros_like(end_BT), end_BT=end_BT)
