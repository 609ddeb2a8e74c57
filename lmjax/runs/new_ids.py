"""The ids that texts gain, in the way that a request asks for: drawn, proposed and checked, or found by a search."""

from collections.abc import Iterator, Sequence
from typing import Any

from lmjax.decode.beam import beam_search
from lmjax.decode.contrastive_search import contrastive_search
from lmjax.decode.sample import stream
from lmjax.decode.speculate import stream as stream_speculatively
from lmjax.objectives.parts.encoder_decoder import EncoderDecoderObjective
from lmjax.runs.opened import Opened
from lmjax.runs.request import NEW_TOKENS, Request


def new_ids(
    run: Opened, prompts: Sequence[list[int]], request: Request, *, pair: EncoderDecoderObjective | None, every: int
) -> Iterator[list[list[int]]]:
    """Yields the ids that each text of a batch gains, a few at a time, or all at once where a search finds them.

    Args:
      run: the run.
      prompts: the token ids that each text follows; the samples of a prompt stand side by side.
      request: how to write.
      pair: the objective, where an encoder reads the prompts.
      every: the number of tokens after which new ids are yielded.

    Raises:
      ValueError: a prompt cannot be continued, or an option is impossible.
    """
    vocabulary = run.tokenizer.vocabulary
    model = (run.model_spec, run.model_params)
    limits = _limits(run, prompts, request, has_encoder=pair is not None)
    common: dict[str, Any] = {
        "vocabulary": vocabulary,
        "sampling": request.sampling,
        "attention": run.config.objective.traits.attention,
        "max_length": run.max_length,
        "start_id": None if pair is None else pair.start_id(vocabulary),
    }
    if request.beam is not None:
        # One search finds all texts of a prompt.
        each = slice(None, None, request.num_samples)
        common |= {"max_new_tokens": limits[each], "num_texts": request.num_samples}
        yield beam_search(*model, prompts[each], beam=request.beam, **common)
    elif request.contrastive is not None:
        yield contrastive_search(*model, prompts, max_new_tokens=limits, search=request.contrastive, **common)
    else:
        common |= {"max_new_tokens": limits, "seed": request.seed, "every": every}
        if request.speculation is None:
            yield from stream(*model, prompts, amateur=request.amateur, **common)
        else:
            if request.speculation.proposer != "model":
                model = (run.spec, run.params)
            yield from stream_speculatively(*model, prompts, speculation=request.speculation, **common)


def _limits(run: Opened, prompts: Sequence[list[int]], request: Request, *, has_encoder: bool) -> list[int]:
    """Returns the largest number of tokens to add to each text."""
    if request.max_new_tokens is not None:
        return [request.max_new_tokens] * len(prompts)
    learned = [run.max_length, None if request.speculation is None else request.speculation.max_length]
    most = min((length for length in learned if length is not None), default=None)
    if most is None:
        return [NEW_TOKENS] * len(prompts)
    # What is written about a prompt that an encoder reads begins with one token.
    return [min(NEW_TOKENS, max(most - (1 if has_encoder else len(ids)), 1)) for ids in prompts]
