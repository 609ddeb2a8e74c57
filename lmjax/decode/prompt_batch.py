"""A batch of prompts and the models that continue them, prepared for functions that write a few tokens at a time."""

import dataclasses
from collections.abc import Sequence

import jax

from lmjax.decode.logits import SamplingConfig
from lmjax.decode.progress import Progress
from lmjax.decode.prompts import Attention, Prompts, laid_out, row_keys
from lmjax.decode.ready import made_ready
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.tokenizers.vocabulary import Vocabulary

Model = tuple[ModuleSpec, Params, int | None]
"""A module, its parameters, and the number of positions that it has learned; None where it has no such limit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is compiled into the functions of decoding.

    Attributes:
      specs: the modules of the models, made ready.
      sampling: how to choose.
      num_ids: the size of the tokenizer's vocabulary.
      eos_id: the token that ends a text.
      pad_id: the token that no penalty counts.
      prefix: whether prompts are read in both directions.
    """

    specs: tuple[ModuleSpec, ...]
    sampling: SamplingConfig
    num_ids: int
    eos_id: int | None
    pad_id: int | None
    prefix: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Prompts on which decoding can begin.

    Attributes:
      plan: what is compiled.
      params: the parameters of each model, made ready.
      given: the prompts as arrays, and how many tokens to add.
      keys_B: a PRNG key for each prompt.
      progress: what each text has gained.
    """

    plan: Plan
    params: tuple[Params, ...]
    given: Prompts
    keys_B: jax.Array
    progress: Progress

    @property
    def most(self) -> int:
        """The largest number of tokens to add to a text."""
        return max(self.given.limits)


def prompt_batch(
    models: Sequence[Model],
    prompts: Sequence[Sequence[int]],
    *,
    vocabulary: Vocabulary,
    max_new_tokens: int | Sequence[int],
    sampling: SamplingConfig,
    attention: Attention,
    start_id: int | None,
    seed: int,
) -> PromptBatch:
    """Returns prompts that all of the models can continue, and the models made ready.

    Args:
      models: the models that read the prompts.
      prompts: token ids, at least one each.
      vocabulary: for the special ids and the number of real ids.
      max_new_tokens: the largest number of tokens to add, one number for all prompts or one for each.
      sampling: how to choose.
      attention: how the models read a prompt.
      start_id: what the text of a model with an encoder begins with; ``None`` for a single stack.
      seed: of the random choices.

    Raises:
      ValueError: a model cannot continue a prompt, see :func:`lmjax.decode.prompts.check_prompts`; or an id of
        ``sampling`` is not in the vocabulary.
    """
    given = laid_out(
        prompts,
        [(spec, length) for spec, _, length in models],
        max_new_tokens=max_new_tokens,
        attention=attention,
        start_id=start_id,
    )
    sampling.check_ids(vocabulary.size)
    specs, params = zip(*(made_ready(spec, own) for spec, own, _ in models), strict=True)
    plan = Plan(
        specs=specs,
        sampling=sampling,
        num_ids=vocabulary.size,
        eos_id=vocabulary.eos_id,
        pad_id=vocabulary.pad_id,
        prefix=attention == "prefix",
    )
    progress = Progress(given.lengths_B.tolist(), given.limits, vocabulary.eos_id)
    return PromptBatch(plan=plan, params=params, given=given, keys_B=row_keys(prompts, seed), progress=progress)
