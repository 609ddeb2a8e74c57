"""Beam search: the continuations of highest probability among those that a search of given width meets.

Each step extends every beam by every token and keeps the ``width`` best texts that have not ended (Graves 2012; the
length penalty: Wu et al. 2016, section 7). Twice as many candidates are looked at, so that ended texts do not narrow
the search. A text that ends among the best ``width`` candidates joins the pool of finished texts.

Axes: W beams of a row, N beams of all rows in one line, X tokens that could follow a row's beams, K the best of them,
S new tokens.
"""

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
class BeamConfig:
    """How to search."""

    beams: int = 4
    """Texts that are followed at the same time; 1 is greedy."""
    length_penalty: float = 1.0
    """A text's score is its log-probability over its number of new tokens to this power; 0 prefers short texts."""
    early_stop: bool = False
    """Stop once as many texts have ended as there are beams, even if one that goes on could still be better."""

    def __post_init__(self):
        if self.beams < 1:
            raise ValueError(f"beams={self.beams}: must be at least 1")
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"length_penalty={self.length_penalty}: must be a finite number")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Search:
    """A search under way, for B prompts with W beams each.

    Attributes:
      draft: the texts that go on, B W rows.
      log_p_BW: the log-probability of each.
      ended_BWS: the best texts that have ended, new tokens only.
      lengths_BW: the number of their new tokens, the end-of-text token included; 0 where there is none yet.
      scores_BW: their scores, -inf where there is none yet.
      done_B: whether the search of a prompt is over.
    """

    draft: Draft
    log_p_BW: jax.Array
    ended_BWS: jax.Array
    lengths_BW: jax.Array
    scores_BW: jax.Array
    done_B: jax.Array


def beam_search(
    spec: ModuleSpec,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    vocabulary: Vocabulary,
    max_new_tokens: int | Sequence[int],
    beam: BeamConfig,
    sampling: SamplingConfig | None = None,
    num_texts: int = 1,
    max_length: int | None = None,
    attention: Attention = "causal",
    start_id: int | None = None,
) -> list[list[int]]:
    """Continues each prompt with the texts of highest score.

    Args:
      spec: the module, a :class:`~lmjax.models.transformer.Transformer`.
      params: its parameters.
      prompts: token ids, at least one each.
      vocabulary: for the end-of-text id and the number of real ids.
      max_new_tokens: the largest number of tokens to add, one number for all prompts or one for each.
      beam: how to search.
      sampling: biases, exclusions and penalties to apply; what only concerns random choices is not used.
      num_texts: the number of texts to return for each prompt, at most ``beam.beams``.
      max_length: the number of positions a stack of the model has, where that is limited.
      attention: ``"prefix"`` reads the prompt in both directions.
      start_id: what the text of a model with an encoder begins with; ``None`` for a single stack.

    Returns:
      The new ids without the end-of-text id: ``num_texts`` texts of the first prompt, the best first, then those of the
      second, and so on.

    Raises:
      ValueError: as :func:`lmjax.decode.sample.stream`, or more texts are asked for than there are beams.
    """
    sampling = sampling or SamplingConfig()
    if not 1 <= num_texts <= beam.beams:
        raise ValueError(
            f"num_samples={num_texts}: a search with beams={beam.beams} finds from 1 to {beam.beams} texts"
        )
    given = laid_out(
        prompts, [(spec, max_length)], max_new_tokens=max_new_tokens, attention=attention, start_id=start_id
    )
    sampling.check_ids(vocabulary.size)
    ended_BWS, lengths_BW, scores_BW = map(
        np.asarray,
        _beam_search(
            params,
            given.tokens_BT,
            given.lengths_B,
            np.array(given.limits, np.int32),
            given.read,
            spec=spec,
            beam=beam,
            sampling=sampling,
            num_ids=vocabulary.size,
            eos_id=-1 if vocabulary.eos_id is None else vocabulary.eos_id,
            pad_id=vocabulary.pad_id,
            room=given.room,
            prefix=attention == "prefix",
        ),
    )
    texts = []
    for ended_WS, lengths_W, scores_W in zip(ended_BWS, lengths_BW, scores_BW, strict=True):
        for place in np.argsort(-scores_W, kind="stable")[:num_texts]:
            text = ended_WS[place, : lengths_W[place]].tolist()
            texts.append(text[:-1] if text and text[-1] == vocabulary.eos_id else text)
    return texts


@functools.partial(
    jax.jit, static_argnames=("spec", "beam", "sampling", "num_ids", "eos_id", "pad_id", "room", "prefix")
)
def _beam_search(
    params: Params,
    tokens_BT: jax.Array,
    lengths_B: jax.Array,
    limits_B: jax.Array,
    read: tuple[jax.Array, jax.Array] | None,
    *,
    spec: ModuleSpec,
    beam: BeamConfig,
    sampling: SamplingConfig,
    num_ids: int,
    eos_id: int,
    pad_id: int | None,
    room: int,
    prefix: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    model: Transformer = spec.bind(params)
    model.unstack()
    num_rows, width = len(lengths_B), beam.beams
    reading = None if read is None else read_with_encoder(model, *read)
    draft, _ = read_prompts(model, tokens_BT, lengths_B, room=room, prefix=prefix, reading=reading)
    start = _Search(
        draft=draft.rows(jnp.repeat(jnp.arange(num_rows), width)),
        # The beams of a prompt begin alike, so all but the first are left out of the first choice.
        log_p_BW=jnp.broadcast_to(jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf)[None, :], (num_rows, width)),
        ended_BWS=jnp.zeros((num_rows, width, room), jnp.int32),
        lengths_BW=jnp.zeros((num_rows, width), jnp.int32),
        scores_BW=jnp.full((num_rows, width), -jnp.inf),
        done_B=jnp.zeros((num_rows,), bool),
    )

    def advance(search: _Search) -> _Search:
        draft = search.draft
        logits_NV = restrict(model.logits(draft.hidden_BD), sampling, num_ids=num_ids)
        logits_NV = penalize(
            logits_NV,
            sampling,
            previous=draft.tokens_BS,
            prompt_length=draft.prompt_lengths_B,
            length=draft.lengths,
            pad_id=pad_id,
        )
        log_p_NV = jax.nn.log_softmax(logits_NV, axis=-1)
        vocab_size = log_p_NV.shape[-1]
        total_BX = (search.log_p_BW.reshape(-1, 1) + log_p_NV).reshape(num_rows, width * vocab_size)
        best_BK, place_BK = jax.lax.top_k(total_BX, min(2 * width, width * vocab_size))
        token_BK, beam_BK = place_BK % vocab_size, place_BK // vocab_size
        ends_BK = token_BK == eos_id
        row_BK = jnp.arange(num_rows)[:, None] * width + beam_BK
        texts_BKS = _new_tokens(draft, room)[row_BK].at[:, :, draft.num_new].set(token_BK, mode="drop")
        is_first_1K = (jnp.arange(best_BK.shape[1]) < width)[None, :]
        joins_BK = ends_BK & is_first_1K & ~search.done_B[:, None]
        search = _with_ended(search, beam, texts_BKS, draft.num_new + 1, jnp.where(joins_BK, best_BK, -jnp.inf))
        # Texts that have ended are put behind all others, and the best of the rest go on.
        going_BK = jnp.where(ends_BK, -jnp.inf, best_BK)
        log_p_BW, chosen_BW = jax.lax.top_k(going_BK, width)
        rows_N = jnp.take_along_axis(row_BK, chosen_BW, axis=1).reshape(-1)
        token_N = jnp.take_along_axis(token_BK, chosen_BW, axis=1).reshape(-1)
        draft = add_token(model, draft.rows(rows_N), token_N)
        search = dataclasses.replace(search, draft=draft, log_p_BW=log_p_BW)
        # At its limit a text is finished as it stands.
        at_limit_B = (draft.num_new >= limits_B) & ~search.done_B
        texts_BWS = _new_tokens(draft, room).reshape(num_rows, width, room)
        last_BW = jnp.where(at_limit_B[:, None], log_p_BW, -jnp.inf)
        search = _with_ended(search, beam, texts_BWS, draft.num_new, last_BW)
        done_B = search.done_B | at_limit_B | _is_over(search, beam, limits_B)
        return dataclasses.replace(search, done_B=done_B)

    search = jax.lax.while_loop(lambda search: ~jnp.all(search.done_B), advance, start)
    return search.ended_BWS, search.lengths_BW, search.scores_BW


def _new_tokens(draft: Draft, room: int) -> jax.Array:
    """The tokens after the prompt of each row, int32 [N, room]."""
    index_NS = draft.prompt_lengths_B[:, None] + jnp.arange(room, dtype=jnp.int32)[None, :]
    return jnp.take_along_axis(draft.tokens_BS, index_NS, axis=1, mode="fill", fill_value=0)


def _with_ended(
    search: _Search, beam: BeamConfig, texts_BKS: jax.Array, length: jax.Array, log_p_BK: jax.Array
) -> _Search:
    """The search whose pool holds the best of its texts and of further ones; -inf marks those that have not ended."""
    scores_BX = jnp.concatenate([search.scores_BW, _score(log_p_BK, length, beam)], axis=1)
    texts_BXS = jnp.concatenate([search.ended_BWS, texts_BKS], axis=1)
    lengths_BX = jnp.concatenate([search.lengths_BW, jnp.full(log_p_BK.shape, length, jnp.int32)], axis=1)
    scores_BW, place_BW = jax.lax.top_k(scores_BX, beam.beams)
    return dataclasses.replace(
        search,
        scores_BW=scores_BW,
        ended_BWS=jnp.take_along_axis(texts_BXS, place_BW[:, :, None], axis=1),
        lengths_BW=jnp.take_along_axis(lengths_BX, place_BW, axis=1),
    )


def _score(log_p: jax.Array, length: jax.Array, beam: BeamConfig) -> jax.Array:
    return log_p / jnp.maximum(length, 1).astype(jnp.float32) ** beam.length_penalty


def _is_over(search: _Search, beam: BeamConfig, limits_B: jax.Array) -> jax.Array:
    """Whether no text that goes on can become better than the worst in the pool, or none is to be waited for."""
    worst_B = search.scores_BW[:, -1]
    if beam.early_stop or beam.beams == 1:
        return jnp.isfinite(worst_B)
    # Log-probabilities only fall. With a penalty above 0 a text's score is at best what it is at its greatest length.
    length_B = limits_B if beam.length_penalty > 0 else jnp.broadcast_to(search.draft.num_new, limits_B.shape)
    return worst_B >= _score(search.log_p_BW[:, 0], length_B, beam)
