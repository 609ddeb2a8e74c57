"""The rounds of speculative decoding: a proposal, one pass of the model over it, and what is kept.

Rows keep different numbers of tokens in the same round. All shapes are static, so a whole text is one loop, in which
the caches are updated in place.

Axes: J proposed tokens, W the last token of the text and the proposed ones.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from lmjax.corruption.gumbel import gumbel_sample
from lmjax.decode.accept import accept, accept_likeliest
from lmjax.decode.draft import Reading
from lmjax.decode.logits import narrow, penalize, restrict
from lmjax.decode.prompt_batch import Plan
from lmjax.decode.proposers import AnyProposer, Memory, OtherModel, ParallelHeads, Proposer, SequentialModules
from lmjax.models.cache import Cache, RecurrentCache
from lmjax.models.parameters import Params
from lmjax.models.with_extras import extra_of, model_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Texts:
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


@functools.partial(jax.jit, static_argnames=("plan", "proposer", "length", "room"))
def begin(
    params: tuple[Params, ...],
    tokens_BT: jax.Array,
    lengths_B: jax.Array,
    read: tuple[jax.Array, jax.Array] | None,
    keys_B: jax.Array,
    limits_B: jax.Array,
    *,
    plan: Plan,
    proposer: Proposer,
    length: int,
    room: int,
) -> Texts:
    """Returns the texts with the first token of each, which the pass over the prompts decides."""
    proposing = _proposing(plan, params, proposer, length)
    hidden_BD, caches, reading, memory = proposing.begin(tokens_BT, lengths_B, read, room=room, prefix=plan.prefix)
    if any(isinstance(cache, RecurrentCache) for cache in (*caches, *memory.caches)):
        raise ValueError(
            "speculative decoding: a recurrent layer cannot take back a token that was proposed and not kept: "
            "use models that only have attention, or write without it"
        )
    tokens_BS = jnp.pad(tokens_BT, ((0, 0), (0, room)))
    logits_BV = proposing.model.logits(hidden_BD)
    logits_BV = _penalized(plan, logits_BV[:, None], tokens_BS, lengths_B, lengths_B[:, None])[:, 0]
    token_B, _ = _draw(plan, _round_keys(keys_B, jnp.zeros_like(lengths_B))[:, 0], logits_BV)
    return Texts(
        tokens_BS=_put(tokens_BS, token_B[:, None], lengths_B),
        prompt_lengths_B=lengths_B,
        num_new_B=jnp.ones_like(lengths_B),
        done_B=(limits_B <= 1) | _is_end(plan, token_B),
        caches=caches,
        reading=reading,
        memory=memory,
        counts_2=jnp.zeros((2,), jnp.int32),
    )


@functools.partial(jax.jit, static_argnames=("plan", "proposer", "length"), donate_argnames="texts")
def advance(
    params: tuple[Params, ...],
    texts: Texts,
    keys_B: jax.Array,
    until: jax.Array,
    limits_B: jax.Array,
    *,
    plan: Plan,
    proposer: Proposer,
    length: int,
) -> Texts:
    """Returns the texts with at least ``until`` new tokens each, or with as many as their limits allow."""
    proposing = _proposing(plan, params, proposer, length)

    def unfinished(texts: Texts) -> jax.Array:
        return jnp.any(~texts.done_B & (texts.num_new_B < until))

    return jax.lax.while_loop(unfinished, lambda texts: _round(plan, proposing, texts, keys_B, limits_B), texts)


def _round(plan: Plan, proposer: AnyProposer, texts: Texts, keys_B: jax.Array, limits_B: jax.Array) -> Texts:
    """One proposal and one pass of the model over it."""
    lengths_B = texts.prompt_lengths_B + texts.num_new_B
    # All randomness of a round follows from the row's key and from how long its text was.
    keys_B2 = _round_keys(keys_B, texts.num_new_B)

    def draw(logits_BV: jax.Array, tokens_BS: jax.Array, number: jax.Array | int):
        lengths_B1 = lengths_B[:, None] + number
        logits_BV = _penalized(plan, logits_BV[:, None], tokens_BS, texts.prompt_lengths_B, lengths_B1)[:, 0]
        token_B, log_q_BV = _draw(plan, jax.vmap(jax.random.fold_in, (0, None))(keys_B2[:, 0], number), logits_BV)
        return token_B, log_q_BV, _put(tokens_BS, token_B[:, None], lengths_B + number)

    proposed_BJ, log_q_BJV, tokens_BS, memory = proposer.propose(texts.memory, texts.tokens_BS, lengths_B, draw)
    step_1W = jnp.arange(proposer.length + 1, dtype=jnp.int32)[None, :]
    positions_BW = lengths_B[:, None] - 1 + step_1W
    last_B1 = jnp.take_along_axis(texts.tokens_BS, lengths_B[:, None] - 1, axis=1)
    tokens_BW = jnp.concatenate([last_B1, proposed_BJ], axis=1)
    states_BWD, raw_BWD, caches = proposer.run(tokens_BW, positions_BW, texts.caches, texts.reading)
    logits_BWV = _penalized(
        plan, proposer.model.logits(states_BWD), tokens_BS, texts.prompt_lengths_B, lengths_B[:, None] + step_1W
    )
    if _is_greedy(plan):
        kept_B, token_B = accept_likeliest(proposed_BJ, jnp.argmax(logits_BWV, axis=-1).astype(jnp.int32))
    else:
        kept_B, token_B = accept(keys_B2[:, 1], proposed_BJ, log_q_BJV, _log_p(plan, logits_BWV))
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


def _proposing(plan: Plan, params: tuple[Params, ...], proposer: Proposer, length: int) -> AnyProposer:
    modules = [spec.bind(part) for spec, part in zip(plan.specs, params, strict=True)]
    if proposer == "model":
        model, other = modules
        return OtherModel(model, other, length)
    kind = ParallelHeads if proposer == "further_heads" else SequentialModules
    return kind(model_of(modules[0]), extra_of(modules[0], proposer), length)


def _is_greedy(plan: Plan) -> bool:
    """Whether the likeliest token is always taken."""
    return plan.sampling.temperature == 0


def _draw(plan: Plan, keys_B: jax.Array, logits_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A token of each row, int32 [B], and the logarithms of what it was drawn from, which nobody asks for if greedy."""
    if _is_greedy(plan):
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32), logits_BV
    log_p_BV = _log_p(plan, logits_BV)
    return jax.vmap(gumbel_sample)(keys_B, log_p_BV), log_p_BV


def _log_p(plan: Plan, logits: jax.Array) -> jax.Array:
    """The logarithms of what a token is drawn from, [..., V], by penalized logits."""
    return jax.nn.log_softmax(narrow(logits, plan.sampling), axis=-1)


def _penalized(
    plan: Plan, logits_BWV: jax.Array, tokens_BS: jax.Array, prompt_lengths_B: jax.Array, lengths_BW: jax.Array
) -> jax.Array:
    """The logits [B, W, V] after the first ``lengths_BW`` tokens of each text, with what looks back applied."""
    logits_BWV = restrict(logits_BWV[..., : plan.num_ids], plan.sampling, num_ids=plan.num_ids)
    lengths_BW = jnp.broadcast_to(lengths_BW, logits_BWV.shape[:2])
    return penalize(
        logits_BWV,
        plan.sampling,
        previous=jnp.broadcast_to(tokens_BS[:, None], (*logits_BWV.shape[:2], tokens_BS.shape[1])),
        prompt_length=jnp.broadcast_to(prompt_lengths_B[:, None], lengths_BW.shape),
        length=lengths_BW,
        pad_id=plan.pad_id,
    )


def _round_keys(keys_B: jax.Array, num_new_B: jax.Array) -> jax.Array:
    """Two keys [B, 2] for each row: of the proposals, and of what becomes of them."""
    return jax.vmap(lambda key, number: jax.random.split(jax.random.fold_in(key, number)))(keys_B, num_new_B)


def _put(tokens_BS: jax.Array, new_BW: jax.Array, at_B: jax.Array) -> jax.Array:
    row_B1 = jnp.arange(len(tokens_BS))[:, None]
    return tokens_BS.at[row_B1, at_B[:, None] + jnp.arange(new_BW.shape[1])[None, :]].set(new_BW, mode="drop")


def _is_end(plan: Plan, tokens: jax.Array) -> jax.Array:
    return jnp.zeros(tokens.shape, bool) if plan.eos_id is None else tokens == plan.eos_id
