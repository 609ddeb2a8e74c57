"""Speculative decoding: a cheap proposal of several tokens, and one pass of the model that keeps those it may keep.

The text follows the distribution of the model and its logits processors exactly, and with a temperature of 0 it is the
greedy text (Leviathan et al. 2023; Chen et al. 2023). What is compiled is in :mod:`lmjax.decode.rounds`.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lmjax.decode.logits import SamplingConfig
from lmjax.decode.prompt_batch import Model, prompt_batch
from lmjax.decode.prompts import Attention
from lmjax.decode.proposers import Proposer
from lmjax.decode.rounds import advance, begin
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.tokenizers.vocabulary import Vocabulary


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
    models: list[Model] = [(spec, params, max_length)]
    if speculation.spec is not None:
        assert speculation.params is not None
        models.append((speculation.spec, speculation.params, speculation.max_length))
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
    given, keys_B, limits_B = batch.given, batch.keys_B, np.array(batch.given.limits, np.int32)
    how: dict[str, Any] = {"plan": batch.plan, "proposer": speculation.proposer, "length": speculation.length}
    texts = begin(batch.params, given.tokens_BT, given.lengths_B, given.read, keys_B, limits_B, room=given.room, **how)
    counted = np.zeros(2, np.int64)
    for until in range(every, batch.most + every, every):
        texts = advance(batch.params, texts, keys_B, min(until, batch.most), limits_B, **how)
        counts = np.asarray(texts.counts_2, np.int64)
        speculation.tally.passes += int(counts[0] - counted[0])
        speculation.tally.kept += int(counts[1] - counted[1])
        counted = counts
        yield batch.progress.pieces(np.asarray(texts.tokens_BS), np.asarray(texts.num_new_B))
        if batch.progress.ended:
            return
