"""Sampling with a key-value cache: one pass over the prompts, then one token at a time, all in one jit.

Prompts of different lengths are padded on the right. A token's cache slot is its position in its
own row, so a row's next token overwrites its padding, and the interval ``[0, position + 1)`` hides
what is left of it.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lmjax.decode.logits import SamplingConfig, choose, penalize
from lmjax.masks import IntervalMask
from lmjax.models.cache import empty_cache
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
    seed: int = 0,
) -> list[list[int]]:
    """Continues each prompt until the end-of-text token or ``max_new_tokens``.

    Args:
      spec: the module, a :class:`Transformer`.
      params: its parameters.
      prompts: token ids, at least one each.
      vocabulary: for the end-of-text id and the number of real ids.
      max_new_tokens: most tokens to add.
      sampling: how to choose.
      max_length: positions the model has, when it has a limit.
      attention: ``"prefix"`` reads the prompt in both directions.
      seed: of the random choices.

    Returns:
      The new ids of each prompt, the end-of-text id left out.

    Raises:
      ValueError: a prompt is empty, the model does not continue text, or its learned positions end
        before the text would.
    """
    if attention == "bidirectional":
        raise ValueError(
            "this model was trained bidirectionally and does not continue text: sample a causal or prefix model"
        )
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("prompt: give at least one token (a beginning-of-text token, if the tokenizer has one)")
    lengths_B = np.array([len(prompt) for prompt in prompts], np.int32)
    longest = int(lengths_B.max()) + max_new_tokens
    if max_length is not None and longest > max_length:
        raise ValueError(
            f"prompt and new tokens make {longest} positions and the model has learned {max_length}: "
            f"shorten the prompt or max_new_tokens"
        )
    # Padding to a power of two lets prompts of similar length share one compilation.
    padded = 1 << int(lengths_B.max() - 1).bit_length()
    tokens_BT = np.zeros((len(prompts), padded), np.int32)
    for row, prompt in zip(tokens_BT, prompts, strict=True):
        row[: len(prompt)] = prompt
    new_BT = _generate(
        params,
        tokens_BT,
        lengths_B,
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


@functools.partial(jax.jit, static_argnames=("spec", "num_ids", "eos_id", "max_new_tokens", "sampling", "prefix"))
def _generate(
    params: Params,
    tokens_BT: jax.Array,
    lengths_B: jax.Array,
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
    # Taken out of their stacks once: inside the loop that would copy every weight for every token.
    model.tail, model.stacks = nnx.List(model.layers()), nnx.List()
    batch_size, padded = tokens_BT.shape
    caches = empty_cache(model.config, batch_size=batch_size, length=padded + max_new_tokens)
    prompt_end_BT = jnp.broadcast_to(lengths_B[:, None], tokens_BT.shape)
    positions_BT = jnp.broadcast_to(jnp.arange(padded, dtype=jnp.int32)[None, :], tokens_BT.shape)

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

    hidden_BTD, caches = model.extend(stream(tokens_BT, positions_BT, prompt_end_BT), caches)
    last_BD = jnp.take_along_axis(hidden_BTD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
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
        hidden_B1D, caches = model.extend(stream(token_B[:, None], position_B1, position_B1 + 1), caches)
        return step + 1, hidden_B1D[:, 0], text_BS, done_B | (token_B == eos_id), caches

    start = (jnp.zeros((), jnp.int32), last_BD, text_BS, jnp.zeros((batch_size,), bool), caches)
    text_BS = jax.lax.while_loop(unfinished, advance, start)[2]
    new_1T = jnp.arange(max_new_tokens)[None, :]
    return jnp.take_along_axis(text_BS, lengths_B[:, None] + new_1T, axis=1)
