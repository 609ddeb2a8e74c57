"""Speculative decoding: a cheap proposal of several tokens, and one pass of the model that keeps those it may keep.

The text follows the distribution of the model and its logits processors exactly, and with a temperature of 0 it is the
greedy text (Leviathan et al. 2023; Chen et al. 2023). Rows keep different numbers of tokens in the same round. All
shapes are static, so a whole text is one loop, in which the caches are updated in place.

Axes: J proposed tokens, W the last token of the text and the proposed ones.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.corruption.gumbel import gumbel_sample
from lmjax.decode.accept import accept
from lmjax.decode.draft import Reading
from lmjax.decode.logits import SamplingConfig, narrow, penalize, restrict
from lmjax.decode.progress import Progress
from lmjax.decode.prompts import Attention, check_prompts, padded, room_for, row_keys
from lmjax.decode.proposers import Memory, OtherModel, ParallelHeads, SequentialModules
from lmjax.decode.ready import made_ready
from lmjax.models.cache import Cache, RecurrentCache
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.models.with_extras import extra_of, model_of
from lmjax.tokenizers.vocabulary import Vocabulary

Proposer = Literal["model", "further_heads", "prediction_modules"]


@dataclasses.dataclass
class Tally:
    """How speculation went, over all texts so far.

    Attributes:
      passes: the passes of the model over proposed tokens, counted for each text.
      kept: the proposed tokens that were kept.
    """

    passes: int = 0
    kept: int = 0

    @property
    def kept_per_pass(self) -> float:
        """The mean number of proposed tokens that a pass kept; each pass adds one more token of its own."""
        return self.kept / max(self.passes, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speculation:
    """What proposes tokens, and how many.

    Attributes:
      proposer: ``"model"`` for another model, or the name of the model's extra that holds its further heads.
      length: the number of tokens that are proposed for each pass of the model.
      spec: the module of the other model, if it is one.
      params: its parameters.
      max_length: the number of positions it has learned; None where it has no such limit.
      tally: where passes and kept tokens are counted.
    """

    proposer: Proposer
    length: int
    spec: ModuleSpec | None = None
    params: Params | None = dataclasses.field(default=None, compare=False)
    max_length: int | None = None
    tally: Tally = dataclasses.field(default_factory=Tally, compare=False)

    def __post_init__(self):
        if self.length < 1:
            raise ValueError(f"draft_length={self.length}: must be at least 1")


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is compiled: the modules, made ready; what proposes and how many; how to choose, and among what."""

    specs: tuple[ModuleSpec, ...]
    proposer: Proposer
    length: int
    sampling: SamplingConfig
    num_ids: int
    eos_id: int | None
    pad_id: int | None
    prefix: bool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Texts:
    """Texts that are being written, one a row. The model has not run on the last token of each yet.

    Attributes:
      tokens_BS: int32, prompt and new tokens; what follows them has no meaning.
      prompt_lengths_B: int32.
      num_new_B: int32, the number of tokens that each row has gained, at least 1.
      done_B: whether the end of the text was added.
      caches: what the model remembers.
      reading: what its encoder has read, or None.
      memory: what the proposer remembers.
      counts_2: int32, passes and kept tokens of all rows.
    """

    tokens_BS: jax.Array
    prompt_lengths_B: jax.Array
    num_new_B: jax.Array
    done_B: jax.Array
    caches: tuple[Cache, ...]
    reading: Reading | None
    memory: Memory
    counts_2: jax.Array


def stream(
    spec: ModuleSpec,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    speculation: Speculation,
    vocabulary: Vocabulary,
    max_new_tokens: int | Sequence[int],
    sampling: SamplingConfig,
    max_length: int | None = None,
    attention: Attention = "causal",
    start_id: int | None = None,
    seed: int = 0,
    every: int = 4,
) -> Iterator[list[list[int]]]:
    """Continues prompts as :func:`lmjax.decode.sample.stream` does, with several tokens for each pass of the model.

    Args:
      spec: the module; with its extras, if its own heads propose.
      params: its parameters.
      prompts: token ids, at least one each.
      speculation: what proposes.
      vocabulary: for the end-of-text id and the number of real ids.
      max_new_tokens: the largest number of tokens to add, one number for all prompts or one for each.
      sampling: how to choose. The same is applied to what proposes.
      max_length: the number of positions a stack of the model has, where that is limited.
      attention: ``"prefix"`` reads the prompt in both directions.
      start_id: what the text of a model with an encoder begins with; ``None`` for a single stack.
      seed: of the random choices. A prompt's text depends on the seed and on the prompt, not on the other prompts.
      every: the number of tokens after which new text is yielded; a row may gain more of them at once.

    Yields:
      For each prompt the ids it has gained; none once its text has ended. The end-of-text id is left out.

    Raises:
      ValueError: as :func:`lmjax.decode.sample.stream`, for the model or for the one that proposes; or a model has
        recurrent layers, which cannot take a token back.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    pairs = [(spec, params)]
    checked = [(spec, max_length)]
    if speculation.spec is not None:
        assert speculation.params is not None
        pairs.append((speculation.spec, speculation.params))
        checked.append((speculation.spec, speculation.max_length))
    for one_spec, one_length in checked:
        check_prompts(
            one_spec,
            prompts,
            max_new_tokens=limits,
            max_length=one_length,
            attention=attention,
            start_id=start_id,
        )
    sampling.check_ids(vocabulary.size)
    specs, every_params = zip(*(made_ready(*pair) for pair in pairs), strict=True)
    plan = _Plan(
        specs=specs,
        proposer=speculation.proposer,
        length=speculation.length,
        sampling=sampling,
        num_ids=vocabulary.size,
        eos_id=vocabulary.eos_id,
        pad_id=vocabulary.pad_id,
        prefix=attention == "prefix",
    )
    read = None if start_id is None else padded(prompts)
    tokens_BT, lengths_B = padded(prompts if start_id is None else [[start_id]] * len(prompts))
    keys_B, limits_B = row_keys(prompts, seed), np.array(limits, np.int32)
    texts = _begin(every_params, tokens_BT, lengths_B, read, keys_B, limits_B, plan=plan, room=room_for(max(limits)))
    progress = Progress(lengths_B.tolist(), limits, vocabulary.eos_id)
    counted = np.zeros(2, np.int64)
    for until in range(every, max(limits) + every, every):
        texts = _advance(every_params, texts, keys_B, min(until, max(limits)), limits_B, plan=plan)
        counts = np.asarray(texts.counts_2, np.int64)
        speculation.tally.passes += int(counts[0] - counted[0])
        speculation.tally.kept += int(counts[1] - counted[1])
        counted = counts
        yield progress.pieces(np.asarray(texts.tokens_BS), np.asarray(texts.num_new_B))
        if progress.ended:
            return


@functools.partial(jax.jit, static_argnames=("plan", "room"))
def _begin(
    params: tuple[Params, ...],
    tokens_BT: jax.Array,
    lengths_B: jax.Array,
    read: tuple[jax.Array, jax.Array] | None,
    keys_B: jax.Array,
    limits_B: jax.Array,
    *,
    plan: _Plan,
    room: int,
) -> _Texts:
    """The texts with the first token of each, which the pass over the prompts decides."""
    proposer = _proposer(plan, params)
    hidden_BD, caches, reading, memory = proposer.begin(tokens_BT, lengths_B, read, room=room, prefix=plan.prefix)
    if any(isinstance(cache, RecurrentCache) for cache in (*caches, *memory.caches)):
        raise ValueError(
            "speculative decoding: a recurrent layer cannot take back a token that was proposed and not kept: "
            "use models that only have attention, or write without it"
        )
    tokens_BS = jnp.pad(tokens_BT, ((0, 0), (0, room)))
    log_p_BV = _log_p(plan, proposer.model.logits(hidden_BD)[:, None], tokens_BS, lengths_B, lengths_B[:, None])[:, 0]
    token_B = jax.vmap(gumbel_sample)(_round_keys(keys_B, jnp.zeros_like(lengths_B))[:, 0], log_p_BV)
    return _Texts(
        tokens_BS=_put(tokens_BS, token_B[:, None], lengths_B),
        prompt_lengths_B=lengths_B,
        num_new_B=jnp.ones_like(lengths_B),
        done_B=(limits_B <= 1) | _is_end(plan, token_B),
        caches=caches,
        reading=reading,
        memory=memory,
        counts_2=jnp.zeros((2,), jnp.int32),
    )


@functools.partial(jax.jit, static_argnames="plan", donate_argnames="texts")
def _advance(
    params: tuple[Params, ...],
    texts: _Texts,
    keys_B: jax.Array,
    until: jax.Array,
    limits_B: jax.Array,
    *,
    plan: _Plan,
) -> _Texts:
    """The texts with at least ``until`` new tokens each, or with as many as their limits allow."""
    proposer = _proposer(plan, params)

    def unfinished(texts: _Texts) -> jax.Array:
        return jnp.any(~texts.done_B & (texts.num_new_B < until))

    return jax.lax.while_loop(unfinished, lambda texts: _round(plan, proposer, texts, keys_B, limits_B), texts)


def _round(plan: _Plan, proposer: Any, texts: _Texts, keys_B: jax.Array, limits_B: jax.Array) -> _Texts:
    """One proposal and one pass of the model over it."""
    lengths_B = texts.prompt_lengths_B + texts.num_new_B
    # All randomness of a round follows from the row's key and from how long its text was.
    keys_B2 = _round_keys(keys_B, texts.num_new_B)

    def draw(logits_BV: jax.Array, tokens_BS: jax.Array, number: jax.Array | int):
        log_q_BV = _log_p(plan, logits_BV[:, None], tokens_BS, texts.prompt_lengths_B, lengths_B[:, None] + number)[
            :, 0
        ]
        own_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B2[:, 0], number)
        token_B = jax.vmap(gumbel_sample)(own_B, log_q_BV)
        return token_B, log_q_BV, _put(tokens_BS, token_B[:, None], lengths_B + number)

    proposed_BJ, log_q_BJV, tokens_BS, memory = proposer.propose(texts.memory, texts.tokens_BS, lengths_B, draw)
    step_1W = jnp.arange(plan.length + 1, dtype=jnp.int32)[None, :]
    positions_BW = lengths_B[:, None] - 1 + step_1W
    last_B1 = jnp.take_along_axis(texts.tokens_BS, lengths_B[:, None] - 1, axis=1)
    tokens_BW = jnp.concatenate([last_B1, proposed_BJ], axis=1)
    states_BWD, raw_BWD, caches = proposer.run(tokens_BW, positions_BW, texts.caches, texts.reading)
    log_p_BWV = _log_p(
        plan, proposer.model.logits(states_BWD), tokens_BS, texts.prompt_lengths_B, lengths_B[:, None] + step_1W
    )
    kept_B, token_B = accept(keys_B2[:, 1], proposed_BJ, log_q_BJV, log_p_BWV)
    goes_on_B = ~texts.done_B
    # A text gains what was kept and one token more, and never more than its limit.
    gained_B = jnp.where(goes_on_B, jnp.minimum(kept_B + 1, limits_B - texts.num_new_B), 0)
    new_BW = jnp.where(step_1W == kept_B[:, None], token_B[:, None], jnp.pad(proposed_BJ, ((0, 0), (0, 1))))
    ends_BW = _is_end(plan, new_BW) & (step_1W < gained_B[:, None])
    num_new_B = texts.num_new_B + gained_B
    kept_B = jnp.where(goes_on_B, jnp.minimum(kept_B, gained_B), 0)
    return dataclasses.replace(
        texts,
        tokens_BS=jnp.where(goes_on_B[:, None], _put(tokens_BS, token_B[:, None], lengths_B + kept_B), texts.tokens_BS),
        num_new_B=num_new_B,
        done_B=texts.done_B | jnp.any(ends_BW, axis=1) | (num_new_B >= limits_B),
        caches=caches,
        memory=proposer.observe(memory, raw_BWD, positions_BW),
        counts_2=texts.counts_2 + jnp.stack([jnp.sum(goes_on_B), jnp.sum(kept_B)]).astype(jnp.int32),
    )


def _proposer(plan: _Plan, params: tuple[Params, ...]) -> OtherModel | ParallelHeads | SequentialModules:
    modules = [spec.bind(part) for spec, part in zip(plan.specs, params, strict=True)]
    if plan.proposer == "model":
        return OtherModel(*modules, plan.length)
    kind = ParallelHeads if plan.proposer == "further_heads" else SequentialModules
    return kind(model_of(modules[0]), extra_of(modules[0], plan.proposer), plan.length)


def _log_p(
    plan: _Plan, logits_BWV: jax.Array, tokens_BS: jax.Array, prompt_lengths_B: jax.Array, lengths_BW: jax.Array
) -> jax.Array:
    """The logarithms of what a token is drawn from, [B, W, V], after the first ``lengths_BW`` tokens of each text."""
    logits_BWV = restrict(logits_BWV[..., : plan.num_ids], plan.sampling, num_ids=plan.num_ids)
    lengths_BW = jnp.broadcast_to(lengths_BW, logits_BWV.shape[:2])
    logits_BWV = penalize(
        logits_BWV,
        plan.sampling,
        previous=jnp.broadcast_to(tokens_BS[:, None], (*logits_BWV.shape[:2], tokens_BS.shape[1])),
        prompt_length=jnp.broadcast_to(prompt_lengths_B[:, None], lengths_BW.shape),
        length=lengths_BW,
        pad_id=plan.pad_id,
    )
    return jax.nn.log_softmax(narrow(logits_BWV, plan.sampling), axis=-1)


def _round_keys(keys_B: jax.Array, num_new_B: jax.Array) -> jax.Array:
    """Two keys [B, 2] for each row: of the proposals, and of what becomes of them."""
    return jax.vmap(lambda key, number: jax.random.split(jax.random.fold_in(key, number)))(keys_B, num_new_B)


def _put(tokens_BS: jax.Array, new_BW: jax.Array, at_B: jax.Array) -> jax.Array:
    row_B1 = jnp.arange(len(tokens_BS))[:, None]
    return tokens_BS.at[row_B1, at_B[:, None] + jnp.arange(new_BW.shape[1])[None, :]].set(new_BW, mode="drop")


def _is_end(plan: _Plan, tokens: jax.Array) -> jax.Array:
    return jnp.zeros(tokens.shape, bool) if plan.eos_id is None else tokens == plan.eos_id
