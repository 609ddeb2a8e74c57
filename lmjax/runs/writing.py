"""Writing text with a run's model: many prompts, in batches, handed out as it is made."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from lmjax.corruption.diffusion import SCHEDULES
from lmjax.decode.beam import BeamConfig, beam_search
from lmjax.decode.contrast import Amateur
from lmjax.decode.contrastive_search import ContrastiveSearch, contrastive_search
from lmjax.decode.logits import SamplingConfig
from lmjax.decode.sample import stream
from lmjax.decode.speculate import Speculation
from lmjax.decode.speculate import stream as stream_speculatively
from lmjax.decode.unmask import Order, unmask
from lmjax.objectives.masked_diffusion import MaskedDiffusion
from lmjax.objectives.parts.encoder_decoder import EncoderDecoderObjective
from lmjax.objectives.parts.naming_tokens import check_names_tokens
from lmjax.runs.opened import Opened
from lmjax.runs.pieces import Pieces
from lmjax.runs.prompts import ids_with_names, prompt_ids, source_ids
from lmjax.tokenizers import Tokenizer
from lmjax.train.components import paired

NEW_TOKENS = 200
"""The number of new tokens where none is asked for."""

EVERY = 4
"""The number of tokens after which text that is watched is handed out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """How to write.

    Attributes:
      num_samples: continuations of each prompt.
      max_new_tokens: the largest number of tokens to add; None for 200, or as many as the learned positions leave.
      sampling: how to choose tokens.
      beam: how to search with several beams instead of sampling, or None.
      contrastive: how to search for text that does not repeat itself instead of sampling, or None.
      amateur: a weaker run whose preferences are avoided (contrastive decoding), or None.
      speculation: what proposes tokens, several for each pass of the model, or None.
      stop: strings that end a text; they are not part of it.
      batch_size: the number of texts that are written at the same time.
      seed: of the random choices.
      unmask_steps: for diffusion models, the number of passes in which the masks are replaced.
      order: for diffusion models, which masks are replaced first.
    """

    num_samples: int = 1
    max_new_tokens: int | None = None
    sampling: SamplingConfig = SamplingConfig()
    beam: BeamConfig | None = None
    contrastive: ContrastiveSearch | None = None
    amateur: Amateur | None = None
    speculation: Speculation | None = None
    stop: tuple[str, ...] = ()
    batch_size: int = 32
    seed: int = 0
    unmask_steps: int = 64
    order: Order = "random"

    def __post_init__(self):
        for name in ("num_samples", "max_new_tokens", "batch_size", "unmask_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}: must be from 0 to {2**32 - 1}")
        if len(self.ways) > 1:
            raise ValueError(f"{' and '.join(self.ways)}: a text is written in one of these ways: give one")
        if "" in self.stop:
            raise ValueError("stop: an empty string ends every text before it begins: leave it out")

    def with_limit(self, max_new_tokens: int) -> "Request":
        """Returns the request with another largest number of new tokens."""
        return dataclasses.replace(self, max_new_tokens=max_new_tokens)

    @property
    def ways(self) -> list[str]:
        """The names of what is asked for beside plain sampling."""
        names = ("beam", "contrastive", "amateur", "speculation")
        return [name for name in names if getattr(self, name) is not None]


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some more of one text.

    Attributes:
      number: which text; the samples of the first prompt come first.
      text: what it goes on with.
      ended: whether this was its last piece.
    """

    number: int
    text: str
    ended: bool


@dataclasses.dataclass(frozen=True)
class _Job:
    """One text to write: the ids its model reads, and how ids that follow become text."""

    ids: list[int]
    pieces: Pieces


def write_texts(run: Opened, prompts: Sequence[str], request: Request) -> list[str]:
    """Returns what the model writes after each prompt, or about it; the samples of a prompt stand side by side.

    Raises:
      ValueError: as :func:`stream_texts`.
    """
    texts = [""] * (len(prompts) * request.num_samples)
    # A stop string has to be looked for while text is made; without one nothing is gained by looking early.
    for piece in stream_texts(run, prompts, request, every=64 if request.stop else 2**30):
        texts[piece.number] += piece.text
    return texts


def stream_texts(run: Opened, prompts: Sequence[str], request: Request, *, every: int = EVERY) -> Iterator[Piece]:
    """Yields text after every few tokens, as it is made. Texts of one batch take turns.

    A model with an encoder reads a prompt with that, and what it writes is yielded. A diffusion model fills in the
    masks of a prompt and what follows, and the whole row is yielded.

    Raises:
      ValueError: a prompt is too long or empty, or the model does not write text; or an option is impossible.
    """
    objective = run.config.objective
    check_names_tokens(objective)
    if isinstance(objective, MaskedDiffusion):
        yield from _filled_in(run, prompts, request, objective)
        return
    pair = paired(objective)
    ids = [prompt_ids(run, text) if pair is None else source_ids(run, text, pair) for text in prompts]
    jobs = []
    for text, own in zip(prompts, ids, strict=True):
        decode = functools.partial(bytes_after, run.tokenizer, text, own) if pair is None else _answer(run.tokenizer)
        jobs += [_Job(own, Pieces(decode, request.stop)) for _ in range(request.num_samples)]
    yield from _write_jobs(run, jobs, request, pair=pair, every=every)


def stream_continuations(
    run: Opened, prompts: Sequence[list[int]], request: Request, *, end_ids: Collection[int] = ()
) -> Iterator[Piece]:
    """Yields what a decoder writes after prompts that are given as token ids, see :func:`stream_texts`.

    Args:
      run: the run.
      prompts: token ids.
      request: how to write.
      end_ids: ids that end a text, beside the tokenizer's end of text.
    """
    check_names_tokens(run.config.objective)
    jobs = [
        _Job(ids, Pieces(functools.partial(bytes_after, run.tokenizer, "", ids), request.stop, end_ids))
        for ids in prompts
        for _ in range(request.num_samples)
    ]
    yield from _write_jobs(run, jobs, request, pair=None, every=EVERY)


def _write_jobs(
    run: Opened, jobs: Sequence[_Job], request: Request, *, pair: EncoderDecoderObjective | None, every: int
) -> Iterator[Piece]:
    """Writes texts in batches, and yields pieces of them."""
    # The samples of a prompt are never divided between batches.
    batch_size = max(request.batch_size // request.num_samples, 1) * request.num_samples
    for begin in range(0, len(jobs), batch_size):
        batch = jobs[begin : begin + batch_size]
        for new in _new_ids(run, batch, request, pair, every):
            for number, (job, ids) in enumerate(zip(batch, new, strict=True), start=begin):
                was_ended = job.pieces.ended
                text = job.pieces.add(ids)
                if text or (job.pieces.ended and not was_ended):
                    yield Piece(number, text, job.pieces.ended)
            if all(job.pieces.ended for job in batch):
                break
        for number, job in enumerate(batch, start=begin):
            if not job.pieces.ended:
                yield Piece(number, job.pieces.finish(), True)


def _new_ids(
    run: Opened, jobs: Sequence[_Job], request: Request, pair: EncoderDecoderObjective | None, every: int
) -> Iterator[list[list[int]]]:
    """The ids that each text of a batch gains, a few at a time, or all at once where a search finds them."""
    vocabulary = run.tokenizer.vocabulary
    start_id = None if pair is None else pair.start_id(vocabulary)
    prompts = [job.ids for job in jobs]
    speculation = request.speculation
    learned = [run.max_length, None if speculation is None else speculation.max_length]
    most = min((length for length in learned if length is not None), default=None)
    limits = [_limit(most, len(ids) if pair is None else 1, request.max_new_tokens) for ids in prompts]
    common: dict[str, Any] = {
        "vocabulary": vocabulary,
        "attention": run.config.objective.traits.attention,
        "max_length": run.max_length,
        "start_id": start_id,
    }
    if request.beam is not None:
        # The texts of a prompt stand side by side, and one search finds them all.
        yield beam_search(
            run.model_spec,
            run.model_params,
            prompts[:: request.num_samples],
            max_new_tokens=limits[:: request.num_samples],
            beam=request.beam,
            sampling=request.sampling,
            num_texts=request.num_samples,
            **common,
        )
        return
    if request.contrastive is not None:
        yield contrastive_search(
            run.model_spec,
            run.model_params,
            prompts,
            max_new_tokens=limits,
            search=request.contrastive,
            sampling=request.sampling,
            **common,
        )
        return
    if speculation is not None:
        is_whole = speculation.proposer != "model"
        yield from stream_speculatively(
            run.spec if is_whole else run.model_spec,
            run.params if is_whole else run.model_params,
            prompts,
            speculation=speculation,
            max_new_tokens=limits,
            sampling=request.sampling,
            seed=request.seed,
            every=every,
            **common,
        )
        return
    yield from stream(
        run.model_spec,
        run.model_params,
        prompts,
        max_new_tokens=limits,
        sampling=request.sampling,
        amateur=request.amateur,
        seed=request.seed,
        every=every,
        **common,
    )


def _limit(max_length: int | None, before: int, asked: int | None) -> int:
    """The number of tokens to add to a text that begins with ``before`` positions."""
    if asked is not None:
        return asked
    return NEW_TOKENS if max_length is None else min(NEW_TOKENS, max(max_length - before, 1))


def _filled_in(run: Opened, prompts: Sequence[str], request: Request, objective: MaskedDiffusion) -> Iterator[Piece]:
    """Yields rows that begin with the prompts and had masks for the rest."""
    if request.ways:
        raise ValueError(
            f"{request.ways[0]}: a diffusion model fills in masks and does not write one token after the other: "
            f"leave it out"
        )
    for number, text in enumerate(prompts):
        ids = ids_with_names(run.tokenizer, text)
        left = max(run.config.train.sequence_length - len(ids), 1)
        length = len(ids) + (request.max_new_tokens or min(NEW_TOKENS, left))
        if run.max_length is not None and length > run.max_length:
            raise ValueError(
                f"prompt and new tokens make {length} positions and the model has learned {run.max_length}: "
                f"shorten the prompt or max_new_tokens"
            )
        rows = unmask(
            run.spec,
            run.params,
            [ids] * request.num_samples,
            hidden=objective.hidden,
            schedule=SCHEDULES[objective.schedule],
            vocabulary=run.tokenizer.vocabulary,
            length=length,
            num_steps=request.unmask_steps,
            sampling=request.sampling,
            order=request.order,
            seed=request.seed,
        )
        for sample, row in enumerate(rows):
            pieces = Pieces(run.tokenizer.decode_bytes, request.stop)
            text = pieces.add(row) + pieces.finish()
            yield Piece(number * request.num_samples + sample, text, True)


def bytes_after(tokenizer: Tokenizer, text: str, prompt: Sequence[int], ids: Sequence[int]) -> bytes:
    """Returns the bytes that ``ids`` add to a prompt.

    Args:
      tokenizer: the tokenizer.
      text: the prompt. Some tokenizers forget a space at its end, and the continuation's first space is then left out.
      prompt: its ids.
      ids: those of the continuation.
    """
    shown = tokenizer.decode_bytes(prompt)
    new = tokenizer.decode_bytes([*prompt, *ids])[len(shown) :]
    forgotten = text[-1:].isspace() and not shown.decode(errors="replace")[-1:].isspace()
    return new.removeprefix(b" ") if forgotten else new


def _answer(tokenizer: Tokenizer) -> Callable[[Sequence[int]], bytes]:
    """The map from the ids a decoder writes to their bytes, with special tokens by name."""
    bos_id = tokenizer.vocabulary.bos_id

    def decode(ids: Sequence[int]) -> bytes:
        return tokenizer.decode_bytes([token_id for token_id in ids if token_id != bos_id], skip_special=False)

    return decode
