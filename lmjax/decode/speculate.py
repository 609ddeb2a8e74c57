"""Speculative decoding: a cheap proposal of several tokens, and one pass of the model that keeps those it may keep.

The text follows the distribution of the model and its logits processors exactly, and with a temperature of 0 it is the
greedy text (Leviathan et al. 2023; Chen et al. 2023). What is compiled is in :mod:`lmjax.decode.rounds`.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from lmjax.decode.logits import SamplingConfig
from lmjax.decode.progress import Progress
from lmjax.decode.prompts import Attention, laid_out, row_keys
from lmjax.decode.proposers import Proposer
from lmjax.decode.ready import made_ready
from lmjax.decode.rounds import Plan, advance, begin
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
    models: list[tuple[ModuleSpec, Params, int | None]] = [(spec, params, max_length)]
    if speculation.spec is not None:
        assert speculation.params is not None
        models.append((speculation.spec, speculation.params, speculation.max_length))
    given = laid_out(
        prompts,
        [(one_spec, one_length) for one_spec, _, one_length in models],
        max_new_tokens=max_new_tokens,
        attention=attention,
        start_id=start_id,
    )
    sampling.check_ids(vocabulary.size)
    specs, every_params = zip(*(made_ready(one_spec, own) for one_spec, own, _ in models), strict=True)
    plan = Plan(
        specs=specs,
        proposer=speculation.proposer,
        length=speculation.length,
        sampling=sampling,
        num_ids=vocabulary.size,
        eos_id=vocabulary.eos_id,
        pad_id=vocabulary.pad_id,
        prefix=attention == "prefix",
    )
    keys_B, limits_B, most = row_keys(prompts, seed), np.array(given.limits, np.int32), max(given.limits)
    texts = begin(
        every_params, given.tokens_BT, given.lengths_B, given.read, keys_B, limits_B, plan=plan, room=given.room
    )
    progress = Progress(given.lengths_B.tolist(), given.limits, vocabulary.eos_id)
    counted = np.zeros(2, np.int64)
    for until in range(every, most + every, every):
        texts = advance(every_params, texts, keys_B, min(until, most), limits_B, plan=plan)
        counts = np.asarray(texts.counts_2, np.int64)
        speculation.tally.passes += int(counts[0] - counted[0])
        speculation.tally.kept += int(counts[1] - counted[1])
        counted = counts
        yield progress.pieces(np.asarray(texts.tokens_BS), np.asarray(texts.num_new_B))
        if progress.ended:
            return
