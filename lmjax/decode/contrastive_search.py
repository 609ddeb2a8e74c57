"""Contrastive search: likely tokens that do not repeat what the text has said (Su et al. 2022, section 4)."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.decode.draft import Draft, add_token, read_prompts, read_with_encoder
from lmjax.decode.logits import SamplingConfig, penalize, restrict
from lmjax.decode.prompts import Attention, laid_out
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.models.transformer import Transformer
from lmjax.tokenizers.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastiveSearch:
    """How to weigh likelihood against repetition."""

    candidates: int = 4
    """The number of most likely tokens to choose among; 1 is greedy."""
    degeneration: float = 0.6
    """The weight of the similarity to what was said; 0 is greedy."""

    def __post_init__(self):
        if self.candidates < 1:
            raise ValueError(f"candidates={self.candidates}: must be at least 1")
        if not (math.isfinite(self.degeneration) and 0 <= self.degeneration <= 1):
            raise ValueError(f"degeneration={self.degeneration}: must be from 0 to 1")


def contrastive_search(
    spec: ModuleSpec,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    vocabulary: Vocabulary,
    max_new_tokens: int | Sequence[int],
    search: ContrastiveSearch,
    sampling: SamplingConfig | None = None,
    max_length: int | None = None,
    attention: Attention = "causal",
    start_id: int | None = None,
) -> list[list[int]]:
    """Continues each prompt with the best of the most likely tokens, one after the other.

    A candidate v for the next token has the score

        (1 - alpha) p(v | text) - alpha max over j of cos(h_v, h_j)

    where h_v is the model's hidden state at v, if v is the next token, and the h_j are those at all tokens before it.

    Args:
      spec: the module, a :class:`~lmjax.models.transformer.Transformer`.
      params: its parameters.
      prompts: token ids, at least one each.
      vocabulary: for the end-of-text id and the number of real ids.
      max_new_tokens: the largest number of tokens to add, one number for all prompts or one for each.
      search: the number of candidates, and alpha.
      sampling: biases, exclusions and penalties to apply; what only concerns random choices is not used.
      max_length: the number of positions a stack of the model has, where that is limited.
      attention: ``"prefix"`` reads the prompt in both directions.
      start_id: what the text of a model with an encoder begins with; ``None`` for a single stack.

    Returns:
      The new ids of each prompt, without the end-of-text id.

    Raises:
      ValueError: as :func:`lmjax.decode.sample.stream`.
    """
    sampling = sampling or SamplingConfig()
    given = laid_out(
        prompts, [(spec, max_length)], max_new_tokens=max_new_tokens, attention=attention, start_id=start_id
    )
    sampling.check_ids(vocabulary.size)
    tokens_BS = _search(
        params,
        given.tokens_BT,
        given.lengths_B,
        max(given.limits),
        given.read,
        spec=spec,
        search=search,
        sampling=sampling,
        num_ids=vocabulary.size,
        eos_id=-1 if vocabulary.eos_id is None else vocabulary.eos_id,
        pad_id=vocabulary.pad_id,
        room=given.room,
        prefix=attention == "prefix",
    )
    texts = []
    for row, length, limit in zip(np.asarray(tokens_BS).tolist(), given.lengths_B.tolist(), given.limits, strict=True):
        text = row[length : length + limit]
        texts.append(text[: text.index(vocabulary.eos_id)] if vocabulary.eos_id in text else text)
    return texts


@functools.partial(
    jax.jit, static_argnames=("spec", "search", "sampling", "num_ids", "eos_id", "pad_id", "room", "prefix")
)
def _search(
    params: Params,
    tokens_BT: jax.Array,
    lengths_B: jax.Array,
    until: jax.Array,
    read: tuple[jax.Array, jax.Array] | None,
    *,
    spec: ModuleSpec,
    search: ContrastiveSearch,
    sampling: SamplingConfig,
    num_ids: int,
    eos_id: int,
    pad_id: int | None,
    room: int,
    prefix: bool,
) -> jax.Array:
    model: Transformer = spec.bind(params)
    model.unstack()
    num_rows, alpha = len(lengths_B), search.degeneration
    reading = None if read is None else read_with_encoder(model, *read)
    draft, states_BSD = read_prompts(model, tokens_BT, lengths_B, room=room, prefix=prefix, reading=reading)

    def unfinished(carry: tuple[Draft, jax.Array]) -> jax.Array:
        return (carry[0].num_new < until) & ~jnp.all(carry[0].done_B)

    def advance(carry: tuple[Draft, jax.Array]) -> tuple[Draft, jax.Array]:
        draft, states_BSD = carry
        logits_BV = restrict(model.logits(draft.hidden_BD), sampling, num_ids=num_ids)
        logits_BV = penalize(
            logits_BV,
            sampling,
            previous=draft.tokens_BS,
            prompt_length=draft.prompt_lengths_B,
            length=draft.lengths,
            pad_id=pad_id,
        )
        count = min(search.candidates, logits_BV.shape[-1])
        probability_BK, token_BK = jax.lax.top_k(jax.nn.softmax(logits_BV, axis=-1), count)
        tried = add_token(
            model, draft.rows(jnp.repeat(jnp.arange(num_rows), count)), token_BK.reshape(-1), eos_id=eos_id
        )
        hidden_BKD = tried.hidden_BD.reshape(num_rows, count, -1)
        similarity_BKS = jnp.einsum("bkd,bsd->bks", _direction(hidden_BKD), states_BSD)
        is_text_B1S = (jnp.arange(states_BSD.shape[1])[None, :] < draft.lengths[:, None])[:, None, :]
        repeats_BK = jnp.max(jnp.where(is_text_B1S, similarity_BKS, -jnp.inf), axis=-1)
        score_BK = (1 - alpha) * probability_BK - alpha * repeats_BK
        # A token that is excluded is never taken, however new it would be.
        place_B = jnp.argmax(jnp.where(probability_BK > 0, score_BK, -jnp.inf), axis=-1)
        row_B = jnp.arange(num_rows)
        direction_BD = _direction(hidden_BKD)[row_B, place_B]
        states_BSD = states_BSD.at[row_B, draft.lengths].set(direction_BD, mode="drop")
        return tried.rows(row_B * count + place_B), states_BSD

    return jax.lax.while_loop(unfinished, advance, (draft, _direction(states_BSD)))[0].tokens_BS


def _direction(states: jax.Array) -> jax.Array:
    """The states as float32 vectors of length 1; zeros stay zeros."""
    states = states.astype(jnp.float32)
    return states * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(states), axis=-1, keepdims=True), 1e-12))
