"""Measures the loss terms over a fixed set of rows: exact means over the corpus, not means of batch means."""

import operator
from collections.abc import Callable, Collection, Generator, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.data.rows.pipeline import batches, device_batches, process_share
from lmjax.data.rows.source import RowSource
from lmjax.losses import bits_per_byte, perplexity
from lmjax.models.parameters import Params
from lmjax.train.components import components_of
from lmjax.train.evaluations.evaluation import Reading
from lmjax.train.scored import refuse_unscored
from lmjax.train.step import Learner
from lmjax.train.text_bytes import WHY_NONE, TextBytes
from lmjax.types import Rows


def fixed_batches(learner: Learner, rows: RowSource, *, batch_size: int, num_batches: int) -> Generator[Rows]:
    """Yields the first ``num_batches`` batches of an epoch (0: all of it), the last filled up with weightless rows."""
    num_rows = len(rows) if num_batches == 0 else min(len(rows), num_batches * batch_size)
    process_index, process_count = process_share(learner.row_sharding, batch_size)
    local = batches(
        rows,
        global_batch_size=batch_size,
        num_rows=num_rows,
        process_index=process_index,
        process_count=process_count,
    )
    return device_batches(local, learner.row_sharding)


def validate(
    learner: Learner,
    params: Params,
    rows: Iterable[Rows],
    text: TextBytes | None = None,
    *,
    after_batch: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Returns ``loss``, ``<term>/loss`` of further terms, ``perplexity`` and ``bits_per_byte``.

    ``loss`` is the mean nats of a scored token where the objective has a term of that name, and else the objective's
    total. Perplexity and bits per byte are made of the objective's text term (``Traits.text_term``); an objective
    without one has none. A mixture has ``<name>/loss`` and so on of each of its objectives, all on the same rows, and
    as ``loss`` their mean by weight. Batch ``i`` is corrupted with a key made of ``i`` alone, so that two validations
    see the same.

    Args:
      learner: what to evaluate.
      params: its parameters.
      rows: the batches.
      text: what is known of the bytes of their text; ``None``: what the vocabulary knows.
      after_batch: called when a batch has been computed.

    Raises:
      NothingScored: an objective has no position that counts in any of the rows.
    """
    return measure(learner, params, rows, text, after_batch=after_batch).numbers


def measure(
    learner: Learner,
    params: Params,
    rows: Iterable[Rows],
    text: TextBytes | None = None,
    *,
    after_batch: Callable[[], object] = lambda: None,
) -> Reading:
    """Returns what :func:`validate` does, with the ``tokens`` that were scored and the ``bytes`` they stand for.

    The counts are unweighted. Where an objective predicts tokens and has no bits per byte, a note says why.
    """
    text = text or TextBytes(exact_table=learner.vocabulary.exact_bytes)
    totals = _totals(learner, params, rows, after_batch)
    terms: dict[str, jax.Array] = {}
    numbers: dict[str, float] = {}
    for component, sums in zip(components_of(learner.objective), totals, strict=True):
        refuse_unscored(sums, component)
        prefix = component.prefix
        terms |= {f"{prefix}{term}": jnp.asarray(mean) for term, mean in term_means(sums).items()}
        traits = component.objective.traits
        own = means(sums, text_term=traits.text_term, measures=traits.measures, text=text)
        numbers |= {f"{prefix}{metric}": value for metric, value in own.items()}
    first = totals[0]
    lacking = any("bytes" in sums and text.of(sums) is None for sums in totals)
    return Reading(
        numbers={"loss": float(learner.objective.for_evaluation().total(terms))} | numbers,
        counts={count: int(first[f"scored_{count}"]) for count in ("tokens", "bytes") if f"scored_{count}" in first},
        notes=(WHY_NONE,) if lacking and not text.exact_table else (),
    )


def _totals(
    learner: Learner, params: Params, rows: Iterable[Rows], after_batch: Callable[[], object] = lambda: None
) -> list[dict[str, float]]:
    """Returns the sums of each component over all batches, added in double precision on the host."""
    key = jax.random.key(0)
    totals: list[dict[str, float]] | None = None
    learners = [learner.of(component) for component in components_of(learner.objective)]
    waiting = None
    # Rows that go on from batch to batch begin each validation with nothing to remember.
    carries = [one.empty_carry() for one in learners]

    def add(totals: list[dict[str, float]] | None, sums: Any) -> list[dict[str, float]]:
        # A count stays a whole number, however many there are.
        values = jax.tree.map(lambda value: value.item(), jax.device_get(sums))
        return values if totals is None else jax.tree.map(operator.add, totals, values)

    with jax.set_mesh(learner.mesh):
        for number, batch in enumerate(rows):
            batch_key = jax.random.fold_in(key, number)
            sums = []
            for index, one in enumerate(learners):
                own, carries[index] = one.eval_step(params, batch, batch_key, carries[index])
                sums.append(own)
            # Read when the next batch is under way: the device never waits, and no more than two are in memory.
            if waiting is not None:
                totals = add(totals, waiting)
                after_batch()
            waiting = sums
    assert waiting is not None, "a split has at least one row"
    return add(totals, waiting)


def means(
    totals: dict[str, float],
    *,
    text_term: str | None = "loss",
    measures: Collection[str] = (),
    text: TextBytes | None = None,
) -> dict[str, float]:
    """Turns the sums of :meth:`Learner.eval_step` into means.

    Args:
      totals: the sums.
      text_term: the term that perplexity and bits per byte are made of, see ``Traits.text_term``.
      measures: terms that are no losses.
      text: what is known of the bytes of the text; ``None``: what the vocabulary knows.
    """
    mean_of = term_means(totals)
    result = {(term if term == "loss" or term in measures else f"{term}/loss"): mean for term, mean in mean_of.items()}
    if text_term in mean_of:
        result["perplexity"] = float(perplexity(mean_of[text_term]))
        if num_bytes := (text or TextBytes()).of(totals):
            result["bits_per_byte"] = float(bits_per_byte(totals[text_term], num_bytes))
    return result


def term_means(totals: dict[str, float]) -> dict[str, float]:
    """Returns the mean of each term."""
    terms = [name.removesuffix("/weight") for name in totals if name.endswith("/weight")]
    return {term: totals[term] / max(totals[f"{term}/weight"], 1e-9) for term in terms}
