"""Writing text with a run's model: many prompts, in batches, handed out as it is made."""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Sequence

from lmjax.corruption.diffusion import SCHEDULES
from lmjax.decode.unmask import unmask
from lmjax.objectives.masked_diffusion import MaskedDiffusion
from lmjax.objectives.parts.encoder_decoder import EncoderDecoderObjective
from lmjax.objectives.parts.naming_tokens import check_names_tokens
from lmjax.runs.new_ids import new_ids
from lmjax.runs.opened import Opened
from lmjax.runs.pieces import Pieces
from lmjax.runs.request import NEW_TOKENS, PENALTIES, Request, changed
from lmjax.train.components import paired
from lmjax.train.prompts import answer_bytes, bytes_after, ids_with_names, prompt_ids, source_ids

EVERY = 4
"""The number of tokens after which text that is watched is handed out."""


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
    own = run.config.data, run.tokenizer
    ids = [prompt_ids(*own, text) if pair is None else source_ids(*own, text, pair) for text in prompts]
    jobs = []
    for text, given in zip(prompts, ids, strict=True):
        decode = (
            functools.partial(bytes_after, run.tokenizer, text, given) if pair is None else answer_bytes(run.tokenizer)
        )
        jobs += [_Job(given, Pieces(decode, request.stop)) for _ in range(request.num_samples)]
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
    for name in changed(request, ("unmask_steps", "order")):
        value = getattr(request, name)
        raise ValueError(f"{name}={value}: only a diffusion model replaces masks step by step: leave it out")
    # The samples of a prompt are never divided between batches.
    batch_size = max(request.batch_size // request.num_samples, 1) * request.num_samples
    for begin in range(0, len(jobs), batch_size):
        batch = jobs[begin : begin + batch_size]
        for new in new_ids(run, [job.ids for job in batch], request, pair=pair, every=every):
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


def _filled_in(run: Opened, prompts: Sequence[str], request: Request, objective: MaskedDiffusion) -> Iterator[Piece]:
    """Yields rows that begin with the prompts and had masks for the rest."""
    if request.ways:
        raise ValueError(
            f"{request.ways[0]}: a diffusion model fills in masks and does not write one token after the other: "
            f"leave it out"
        )
    for name in changed(request.sampling, PENALTIES):
        value = getattr(request.sampling, name)
        raise ValueError(f"{name}={value}: a diffusion model has no text before a token to look back on: leave it out")
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
