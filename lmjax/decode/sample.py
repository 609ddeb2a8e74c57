"""Sampling with a key-value cache: one pass over the prompts, then one token at a time, all in one jit.

Prompts of different lengths are padded on the left. A token's cache slot is its position in its own
row, so nothing of the padding is kept, and the interval ``[0, position + 1)`` is what was. A model with
an encoder reads the prompts with that; the text it writes about them begins with a start token.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.decode.logits import SamplingConfig, choose, penalize
from lmjax.masks import IntervalMask
from lmjax.models.cache import Cache, empty_cache
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.models.transformer import Transformer
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Stream


def generate(
    spec: ModuleSpec,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    vocabulary: Vocabulary,
    max_new_tokens: int,
    sampling: SamplingConfig,
    max_length: int | None = None,
    attention: Literal["causal", "bidirectional", "prefix"] = "causal",
    start_id: int | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """Continues each prompt, or writes about it, until the end-of-text token or ``max_new_tokens``.

    Args:
      spec: the module, a :class:`Transformer`.
      params: its parameters.
      prompts: token ids, at least one each.
      vocabulary: for the end-of-text id and the number of real ids.
      max_new_tokens: most tokens to add.
      sampling: how to choose. Penalties look back on prompt and new text, or where an encoder reads
        the prompt, on start token and new text.
      max_length: positions a stack of the model has, when it has a limit.
      attention: ``"prefix"`` reads the prompt in both directions.
      start_id: what the text of a model with an encoder begins with; ``None`` for a single stack.
      seed: of the random choices.

    Returns:
      The new ids of each prompt, the end-of-text id left out.

    Raises:
      ValueError: a prompt is empty, the model does not continue text, or its learned positions end
        before the text would; or an encoder is there without ``start_id``, or the other way round.
    """
    if attention == "bidirectional":
        raise ValueError(
            "this model was trained bidirectionally and does not continue text: sample a causal or prefix model"
        )
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("prompt: give at least one token (a beginning-of-text token, if the tokenizer has one)")
    if (start_id is not None) != ("encoder" in spec.shapes):
        raise ValueError(f"start_id={start_id}: a model with an encoder needs one, and no other model takes it")
    source = None if start_id is None else _padded(prompts)
    tokens_BT, lengths_B = _padded(prompts if start_id is None else [[start_id]] * len(prompts))
    longest = max(int(lengths_B.max()) + max_new_tokens, 0 if source is None else int(source[1].max()))
    if max_length is not None and longest > max_length:
        raise ValueError(
            f"prompt and new tokens make {longest} positions and the model has learned {max_length}: "
            f"shorten the prompt or max_new_tokens"
        )
    new_BT = _generate(
        params,
        tokens_BT,
        lengths_B,
        source,
        jax.random.key(seed),
        spec=spec,
        num_ids=vocabulary.size,
        eos_id=-1 if vocabulary.eos_id is None else vocabulary.eos_id,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        prefix=attention == "prefix",
    )
    rows = np.asarray(new_BT).tolist()
    return [row[: row.index(vocabulary.eos_id)] if vocabulary.eos_id in row else row for row in rows]


def _padded(texts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Texts as the beginnings of rows, and their lengths."""
    lengths_B = np.array([len(text) for text in texts], np.int32)
    # A power of two lets texts of similar length share one compilation.
    tokens_BT = np.zeros((len(texts), 1 << int(lengths_B.max() - 1).bit_length()), np.int32)
    for row, text in zip(tokens_BT, texts, strict=True):
        row[: len(text)] = text
    return tokens_BT, lengths_B


@functools.partial(jax.jit, static_argnames=("spec", "num_ids", "eos_id", "max_new_tokens", "sampling", "prefix"))
def _generate(
    params: Params,
    tokens_BT: jax.Array,
    lengths_B: jax.Array,
    source: tuple[jax.Array, jax.Array] | None,
    key: jax.Array,
    *,
    spec: ModuleSpec,
    num_ids: int,
    eos_id: int,
    max_new_tokens: int,
    sampling: SamplingConfig,
    prefix: bool,
) -> jax.Array:
    model: Transformer = spec.bind(params)
    model.unstack()
    batch_size, padded = tokens_BT.shape
    caches = empty_cache(model.config, batch_size=batch_size, length=padded + max_new_tokens)
    prompt_end_BT = jnp.broadcast_to(lengths_B[:, None], tokens_BT.shape)
    # Prompts end together: behind a recurrent layer's back, padding after one would be read as text. That before it
    # is written to slots that are not there.
    index_BT = jnp.arange(padded, dtype=jnp.int32)[None, :] + (lengths_B[:, None] - padded)
    positions_BT = jnp.where(index_BT >= 0, index_BT, padded + max_new_tokens)
    prompt_BT = jnp.take_along_axis(tokens_BT, jnp.maximum(index_BT, 0), axis=1)
    extend = model.extend if source is None else _reading(model, *source)

    def stream(tokens_BT: jax.Array, positions_BT: jax.Array, least_end_BT: jax.Array) -> Stream:
        end_BT = jnp.maximum(positions_BT + 1, least_end_BT) if prefix else positions_BT + 1
        mask = IntervalMask(start_BT=jnp.zeros_like(end_BT), end_BT=end_BT)
        return Stream(tokens_BT=tokens_BT, positions_BT=positions_BT, mask=mask)

    def pick(step: jax.Array, hidden_BD: jax.Array, text_BS: jax.Array) -> jax.Array:
        logits_BV = model.logits(hidden_BD)
        # Rows of the table beyond the tokenizer's ids stand for nothing.
        is_id_1V = (jnp.arange(logits_BV.shape[-1]) < num_ids)[None, :]
        logits_BV = jnp.where(is_id_1V, logits_BV, -jnp.inf)
        logits_BV = penalize(logits_BV, sampling, previous=text_BS, prompt_length=lengths_B, length=lengths_B + step)
        return choose(jax.random.fold_in(key, step), logits_BV, sampling)

    hidden_BTD, caches = extend(stream(prompt_BT, positions_BT, prompt_end_BT), caches)
    # Prompt and new tokens of a row without a gap, over the prompt's padding.
    text_BS = jnp.pad(tokens_BT, ((0, 0), (0, max_new_tokens)))
    row_B = jnp.arange(batch_size)

    def unfinished(carry) -> jax.Array:
        step, _, _, done_B, _ = carry
        return (step < max_new_tokens) & ~jnp.all(done_B)

    def advance(carry):
        step, hidden_BD, text_BS, done_B, caches = carry
        token_B = pick(step, hidden_BD, text_BS)
        text_BS = text_BS.at[row_B, lengths_B + step].set(token_B)
        position_B1 = (lengths_B + step)[:, None]
        hidden_B1D, caches = extend(stream(token_B[:, None], position_B1, position_B1 + 1), caches)
        return step + 1, hidden_B1D[:, 0], text_BS, done_B | (token_B == eos_id), caches

    start = (jnp.zeros((), jnp.int32), hidden_BTD[:, -1], text_BS, jnp.zeros((batch_size,), bool), caches)
    text_BS = jax.lax.while_loop(unfinished, advance, start)[2]
    new_1T = jnp.arange(max_new_tokens)[None, :]
    return jnp.take_along_axis(text_BS, lengths_B[:, None] + new_1T, axis=1)


def _reading(model: Transformer, tokens_BS: jax.Array, lengths_B: jax.Array):
    """``model.extend`` once the encoder has read the first ``lengths_B`` tokens of each row."""
    num_rows, length = tokens_BS.shape
    positions_BS = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None, :], tokens_BS.shape)

    def whole(num_queries: int) -> IntervalMask:
        end_BT = jnp.broadcast_to(lengths_B[:, None], (num_rows, num_queries))
        return IntervalMask(start_BT=jnp.zeros_like(end_BT), end_BT=end_BT)

    stream = Stream(tokens_BT=tokens_BS, positions_BT=positions_BS, mask=whole(length))
    sources = model.remember(model.encode(stream).states_BTD)

    def extend(stream: Stream, caches: tuple[Cache, ...]) -> tuple[jax.Array, tuple[Cache, ...]]:
        cross_mask = whole(stream.tokens_BT.shape[1])
        return model.extend(stream, caches, sources=sources, cross_mask=cross_mask)

    return extend
