"""Sampling with a key-value cache: one pass over the prompts, then one token at a time.

Prompts of different lengths are sampled together, and each gets the text it would get alone. A model with an encoder
reads the prompts with that; the text it writes about them begins with a start token.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from lmjax.decode.contrast import Amateur, contrasted
from lmjax.decode.draft import Draft, read_prompts, read_with_encoder, write
from lmjax.decode.logits import SamplingConfig, choose, only_ids, penalize, restrict
from lmjax.decode.prompt_batch import Model, Plan, prompt_batch
from lmjax.decode.prompts import Attention
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.tokenizers.vocabulary import Vocabulary


def generate(spec: ModuleSpec, params: Params, prompts: Sequence[Sequence[int]], **options: Any) -> list[list[int]]:
    """Continues each prompt, or writes about it, until the end-of-text token or ``max_new_tokens``.

    Args:
      spec: the module, a :class:`~lmjax.models.transformer.Transformer`.
      params: its parameters.
      prompts: token ids, at least one each.
      **options: as of :func:`stream`.

    Returns:
      The new ids of each prompt, without the end-of-text id.

    Raises:
      ValueError: as :func:`stream`.
    """
    texts: list[list[int]] = [[] for _ in prompts]
    for pieces in stream(spec, params, prompts, **options, every=2**30):
        for text, piece in zip(texts, pieces, strict=True):
            text += piece
    return texts


def stream(
    spec: ModuleSpec,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    vocabulary: Vocabulary,
    max_new_tokens: int | Sequence[int],
    sampling: SamplingConfig,
    max_length: int | None = None,
    attention: Attention = "causal",
    start_id: int | None = None,
    amateur: Amateur | None = None,
    seed: int = 0,
    every: int = 4,
) -> Iterator[list[list[int]]]:
    """Continues prompts as :func:`generate` does, and yields the text while it is being made.

    Args:
      spec: the module, a :class:`~lmjax.models.transformer.Transformer`.
      params: its parameters.
      prompts: token ids, at least one each.
      vocabulary: for the end-of-text id and the number of real ids.
      max_new_tokens: the largest number of tokens to add, one number for all prompts or one for each.
      sampling: how to choose. Penalties look back on prompt and new text, or where an encoder reads the prompt, on
        start token and new text. They never count padding.
      max_length: the number of positions a stack of the model has, where that is limited.
      attention: ``"prefix"`` reads the prompt in both directions.
      start_id: what the text of a model with an encoder begins with; ``None`` for a single stack.
      amateur: a weaker model whose preferences are to be avoided (contrastive decoding).
      seed: of the random choices. A prompt's text depends on the seed and on the prompt, not on the other prompts.
      every: the number of tokens after which new text is yielded.

    Yields:
      For each prompt the ids it has gained; none once its text has ended. The end-of-text id is left out.

    Raises:
      ValueError: a prompt is empty, the model does not continue text, or its learned positions end before the text
        would; or an encoder is there without ``start_id``, or the other way round; or an id is not in the vocabulary.
    """
    models: list[Model] = [(spec, params, max_length)]
    if amateur is not None:
        assert amateur.params is not None
        models.append((amateur.spec, amateur.params, amateur.max_length))
    batch = prompt_batch(
        models,
        prompts,
        vocabulary=vocabulary,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        attention=attention,
        start_id=start_id,
        seed=seed,
    )
    given, plan = batch.given, batch.plan
    contrast = None if amateur is None else dataclasses.replace(amateur, params=None)
    drafts = begin(batch.params, given.tokens_BT, given.lengths_B, given.read, plan=plan, room=given.room)
    for done in range(0, batch.most, every):
        until = min(done + every, batch.most)
        drafts = advance(batch.params, drafts, batch.keys_B, until, plan=plan, contrast=contrast)
        num_new_B = np.full(len(prompts), int(drafts[0].num_new))
        yield batch.progress.pieces(np.asarray(drafts[0].tokens_BS), num_new_B)
        if batch.progress.ended:
            return


@functools.partial(jax.jit, static_argnames=("plan", "room"))
def begin(
    params: tuple[Params, ...],
    tokens_BT: jax.Array,
    lengths_B: jax.Array,
    read: tuple[jax.Array, jax.Array] | None,
    *,
    plan: Plan,
    room: int,
) -> tuple[Draft, ...]:
    """Returns the drafts that hold the prompts, one for each model.

    Args:
      params: the parameters of each model, made ready.
      tokens_BT: int32, what the texts begin with.
      lengths_B: int32, the numbers of tokens of these beginnings.
      read: what an encoder reads, tokens int32 [B, T] and their numbers int32 [B]; None for a single stack.
      plan: what is compiled.
      room: the number of tokens that may be added.
    """
    drafts = []
    for model in _models(plan, params):
        reading = None if read is None else read_with_encoder(model, *read)
        drafts.append(read_prompts(model, tokens_BT, lengths_B, room=room, prefix=plan.prefix, reading=reading)[0])
    return tuple(drafts)


@functools.partial(jax.jit, static_argnames=("plan", "contrast"), donate_argnames="drafts")
def advance(
    params: tuple[Params, ...],
    drafts: tuple[Draft, ...],
    keys_B: jax.Array,
    until: jax.Array | int,
    *,
    plan: Plan,
    contrast: Amateur | None = None,
) -> tuple[Draft, ...]:
    """Returns the drafts with ``until`` new tokens, or with fewer if all texts have ended.

    Args:
      params: the parameters of each model, made ready.
      drafts: the draft of each model. Their caches are updated in place, so they cannot be used any more.
      keys_B: a PRNG key for each row.
      until: the number of new tokens that each row is to have.
      plan: what is compiled.
      contrast: the amateur without its weights, if the second model is one.
    """

    def pick(logits: tuple[jax.Array, ...], draft: Draft) -> jax.Array:
        logits = tuple(only_ids(logits_BV, plan.num_ids) for logits_BV in logits)
        logits_BV = logits[0] if contrast is None else contrasted(logits[0], logits[1], contrast)
        logits_BV = restrict(logits_BV, plan.sampling, num_ids=plan.num_ids)
        logits_BV = penalize(
            logits_BV,
            plan.sampling,
            previous=draft.tokens_BS,
            prompt_length=draft.prompt_lengths_B,
            length=draft.lengths,
            pad_id=plan.pad_id,
        )
        return choose(jax.vmap(jax.random.fold_in, (0, None))(keys_B, draft.num_new), logits_BV, plan.sampling)

    return write(_models(plan, params), drafts, pick, until=until, eos_id=plan.eos_id)


def _models(plan: Plan, params: tuple[Params, ...]) -> list[Any]:
    return [spec.bind(part) for spec, part in zip(plan.specs, params, strict=True)]
