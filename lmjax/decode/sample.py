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
from lmjax.decode.progress import Progress
from lmjax.decode.prompts import Attention, laid_out, row_keys
from lmjax.decode.ready import made_ready
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.tokenizers.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is compiled into the two functions of sampling.

    Attributes:
      specs: the module of the model, and of the amateur where there is one, made ready.
      sampling: how to choose.
      num_ids: the size of the tokenizer's vocabulary.
      eos_id: the token that ends a text.
      pad_id: the token that no penalty counts.
      prefix: whether prompts are read in both directions.
      contrast: the amateur without its weights.
    """

    specs: tuple[ModuleSpec, ...]
    sampling: SamplingConfig
    num_ids: int
    eos_id: int | None
    pad_id: int | None
    prefix: bool
    contrast: Amateur | None


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
    models: list[tuple[ModuleSpec, Params, int | None]] = [(spec, params, max_length)]
    if amateur is not None:
        assert amateur.params is not None
        models.append((amateur.spec, amateur.params, amateur.max_length))
    given = laid_out(
        prompts,
        [(one_spec, one_length) for one_spec, _, one_length in models],
        max_new_tokens=max_new_tokens,
        attention=attention,
        start_id=start_id,
    )
    sampling.check_ids(vocabulary.size)
    specs, every_params = zip(*(made_ready(one_spec, own) for one_spec, own, _ in models), strict=True)
    plan = _Plan(
        specs=specs,
        sampling=sampling,
        num_ids=vocabulary.size,
        eos_id=vocabulary.eos_id,
        pad_id=vocabulary.pad_id,
        prefix=attention == "prefix",
        contrast=None if amateur is None else dataclasses.replace(amateur, params=None),
    )
    drafts = _begin(every_params, given.tokens_BT, given.lengths_B, given.read, plan=plan, room=given.room)
    keys_B, most = row_keys(prompts, seed), max(given.limits)
    progress = Progress(given.lengths_B.tolist(), given.limits, vocabulary.eos_id)
    for begin in range(0, most, every):
        drafts = _advance(every_params, drafts, keys_B, min(begin + every, most), plan=plan)
        num_new_B = np.full(len(prompts), int(drafts[0].num_new))
        yield progress.pieces(np.asarray(drafts[0].tokens_BS), num_new_B)
        if progress.ended:
            return


@functools.partial(jax.jit, static_argnames=("plan", "room"))
def _begin(
    params: tuple[Params, ...],
    tokens_BT: jax.Array,
    lengths_B: jax.Array,
    read: tuple[jax.Array, jax.Array] | None,
    *,
    plan: _Plan,
    room: int,
) -> tuple[Draft, ...]:
    """The drafts that hold the prompts, one for each model."""
    drafts = []
    for model in _models(plan, params):
        reading = None if read is None else read_with_encoder(model, *read)
        drafts.append(read_prompts(model, tokens_BT, lengths_B, room=room, prefix=plan.prefix, reading=reading)[0])
    return tuple(drafts)


@functools.partial(jax.jit, static_argnames="plan", donate_argnames="drafts")
def _advance(
    params: tuple[Params, ...], drafts: tuple[Draft, ...], keys_B: jax.Array, until: jax.Array, *, plan: _Plan
) -> tuple[Draft, ...]:
    """The drafts with ``until`` new tokens; their caches are updated in place."""

    def pick(logits: tuple[jax.Array, ...], draft: Draft) -> jax.Array:
        logits = tuple(only_ids(logits_BV, plan.num_ids) for logits_BV in logits)
        logits_BV = logits[0] if plan.contrast is None else contrasted(logits[0], logits[1], plan.contrast)
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


def _models(plan: _Plan, params: tuple[Params, ...]) -> list[Any]:
    return [spec.bind(part) for spec, part in zip(plan.specs, params, strict=True)]
