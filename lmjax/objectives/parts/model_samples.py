"""Text that a model writes while it is trained: its next token at every position, and continuations of prompts.

Objectives that train on the output of their own model use it. Nothing here is differentiated. Every draw is a function
of the seed of its row and of its position, so it does not depend on devices, microbatches or chunks.

Axes: P tokens of a prompt, W tokens of a window.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.corruption.gumbel import gumbel_sample
from lmjax.decode.draft import Draft, read_prompts, write
from lmjax.layout import count_within, documents
from lmjax.models.head import gathered_head
from lmjax.models.transformer import Transformer
from lmjax.objectives.parts.logit_chunks import chunk_length, map_over_chunks
from lmjax.objectives.parts.token_objective import token_weights
from lmjax.schedules.ramp import Ramp, Scalar, extremes
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Rows


def sampling_extras(key: jax.Array, num_rows: int, vocabulary: Vocabulary) -> dict[str, jax.Array]:
    """Makes what :func:`predict_next` and :func:`continue_prompts` need of each row, for ``Batch.extras``.

    Returns:
      ``seed``, uint32 [B], and ``num_ids``, int32 [B], the size of the tokenizer's vocabulary.
    """
    return {
        "seed": jax.random.bits(key, (num_rows,), jnp.uint32),
        "num_ids": jnp.full((num_rows,), vocabulary.size, jnp.int32),
    }


def predict_next(
    model: Transformer, hidden_BTD: jax.Array, extras: dict[str, jax.Array], *, temperature: float | jax.Array
) -> jax.Array:
    """Draws a token for the place after each position, int32 [B, T].

    The logits exist for one chunk of positions at a time.

    Args:
      model: whose head to use.
      hidden_BTD: its hidden states.
      extras: with the entries of :func:`sampling_extras`.
      temperature: of the distribution drawn from; 0 takes the likeliest token.
    """
    model, hidden_BTD = jax.lax.stop_gradient((model, hidden_BTD))
    head = gathered_head(model)
    num_rows, length = hidden_BTD.shape[:2]
    index_BT = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None, :], (num_rows, length))

    def chunk(hidden_BCD: jax.Array, index_BC: jax.Array) -> jax.Array:
        return _sample(extras, index_BC, head(hidden_BCD), temperature)

    return map_over_chunks(chunk, chunk_length(num_rows, model.config.vocab_size), hidden_BTD, index_BT)


def continue_prompts(
    model: Transformer,
    prompts_BP: jax.Array,
    extras: dict[str, jax.Array],
    *,
    num_tokens: int,
    temperature: float | jax.Array,
) -> jax.Array:
    """Returns prompts and what the model writes after them, int32 [B, P + num_tokens].

    An end-of-text token does not end a row: every row gains the same number of tokens.

    Args:
      model: what to sample from, without dropout.
      prompts_BP: int32, each the beginning of a text.
      extras: with the entries of :func:`sampling_extras`.
      num_tokens: how many to add, at least 1.
      temperature: of the distribution drawn from; 0 takes the likeliest token.
    """
    model = nnx.clone(jax.lax.stop_gradient(model))
    model.unstack()
    num_rows, prompt_length = prompts_BP.shape
    lengths_B = jnp.full((num_rows,), prompt_length, jnp.int32)
    draft, _ = read_prompts(model, prompts_BP, lengths_B, room=num_tokens)

    def choose(logits: tuple[jax.Array, ...], draft: Draft) -> jax.Array:
        return _sample(extras, draft.lengths[:, None] - 1, logits[0][:, None], temperature)[:, 0]

    (draft,) = write((model,), (draft,), choose, until=num_tokens)
    return draft.tokens_BS


def choose_windows(key: jax.Array, rows: Rows, *, prompt_length: int, num_tokens: int) -> tuple[jax.Array, jax.Array]:
    """In each row a random piece of a document: a prompt and the tokens that do follow it.

    All places are equally likely at which a prompt of ``prompt_length`` and ``num_tokens`` more lie in one
    document and the latter all count in the loss.

    Returns:
      ``(windows_BW, weights_B)``: int32 tokens, W = prompt_length + num_tokens, and float32 1, or 0 for a
      row that has no such place.
    """
    tokens_BT = rows.tokens_BT
    row_length = tokens_BT.shape[1]
    window = prompt_length + num_tokens
    where = documents(rows.segments_BT, tokens_BT.shape)
    fits_BT = where.real_BT & (where.index_BT + window <= where.end_BT)
    first_BT, last_BT = (jnp.minimum(where.index_BT + at, row_length - 1) for at in (prompt_length, window - 1))
    fits_BT &= count_within(token_weights(rows) > 0, first_BT, last_BT + 1) == num_tokens
    draw_BT = jnp.where(fits_BT, jax.random.uniform(key, tokens_BT.shape), -1.0)
    start_B1 = jnp.argmax(draw_BT, axis=1)[:, None]
    index_BW = start_B1 + jnp.arange(window, dtype=jnp.int32)[None, :]
    windows_BW = jnp.take_along_axis(tokens_BT, index_BW, axis=1, mode="clip")
    return windows_BW, jnp.any(fits_BT, axis=1).astype(jnp.float32)


def check_temperature(temperature: Scalar) -> None:
    """Refuses a temperature below 0, and a schedule that comes to 0: taking the likeliest is another program.

    Raises:
      ValueError: naming the objective's field.
    """
    if min(extremes(temperature)) < 0:
        raise ValueError(f"objective.temperature={temperature}: must not be negative; 0 takes the likeliest")
    if isinstance(temperature, Ramp) and min(extremes(temperature)) == 0:
        raise ValueError(f"objective.temperature={temperature}: a schedule must stay above 0")


def check_window(*, prompt_length: int, free_tokens: int) -> None:
    """Refuses a window that has no prompt or nothing after it.

    Raises:
      ValueError: naming the objective's field.
    """
    for name, value in (("prompt_length", prompt_length), ("free_tokens", free_tokens)):
        if value < 1:
            raise ValueError(f"objective.{name}={value}: must be at least 1")


def check_window_fits(*, prompt_length: int, free_tokens: int, sequence_length: int) -> None:
    """Refuses a window longer than what the model sees of a row.

    Raises:
      ValueError: naming the fields.
    """
    if prompt_length + free_tokens > sequence_length:
        raise ValueError(
            f"objective.prompt_length={prompt_length} and objective.free_tokens={free_tokens} make more than "
            f"train.sequence_length={sequence_length}: lower one of them, or train on longer rows"
        )


def _sample(
    extras: dict[str, jax.Array], index_BC: jax.Array, logits_BCV: jax.Array, temperature: float | jax.Array
) -> jax.Array:
    id_11V = jnp.arange(logits_BCV.shape[-1])[None, None, :]
    logits_BCV = jnp.where(id_11V < extras["num_ids"][:, None, None], logits_BCV, -jnp.inf)
    if isinstance(temperature, int | float) and temperature == 0:
        return jnp.argmax(logits_BCV, axis=-1).astype(jnp.int32)

    def draw(seed: jax.Array, index: jax.Array, logits_V: jax.Array) -> jax.Array:
        return gumbel_sample(jax.random.fold_in(jax.random.key(seed), index), logits_V / temperature)

    of_row = jax.vmap(draw, in_axes=(None, 0, 0))
    return jax.vmap(of_row)(extras["seed"], index_BC, logits_BCV).astype(jnp.int32)
