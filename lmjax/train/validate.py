"""Measures the loss terms over a fixed set of rows. The means are exact over all rows, not means of batch means."""

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
    """Yields the first ``num_batches`` batches of an epoch (0: all); rows of weight 0 fill up the last batch."""
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

    ``loss`` is the mean nats of a scored token if the objective has a term of that name, and else the objective's
    total. Perplexity and bits per byte are computed from the objective's text term (``Traits.text_term``); without such
    a term they are not returned. A mixture has ``<name>/loss`` and so on for each of its objectives, all on the same
    rows, and its ``loss`` is their weighted mean. Batch ``i`` is corrupted with a key that depends only on ``i``, so
    two validations see the same corruption.

    Args:
      learner: the learner to evaluate.
      params: the parameters.
      rows: the batches.
      text: the known facts about the bytes of their text; if ``None``, only the vocabulary's bytes per token are used.
      after_batch: called after each batch.

    Raises:
      NothingScored: an objective scores no position in any of the rows.
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
    """Returns the numbers of :func:`validate`, and the counts of scored ``tokens`` and of the ``bytes`` they stand for.

    The counts are unweighted. If an objective predicts tokens but has no bits per byte, a note says why.
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
    # If rows continue from batch to batch, each validation begins with an empty carry.
    carries = [one.empty_carry() for one in learners]

    def add(totals: list[dict[str, float]] | None, sums: Any) -> list[dict[str, float]]:
        # Counts stay exact whole numbers, however large they are.
        values = jax.tree.map(lambda value: value.item(), jax.device_get(sums))
        return values if totals is None else jax.tree.map(operator.add, totals, values)

    with jax.set_mesh(learner.mesh):
        for number, batch in enumerate(rows):
            batch_key = jax.random.fold_in(key, number)
            sums = []
            for index, one in enumerate(learners):
                own, carries[index] = one.eval_step(params, batch, batch_key, carries[index])
                sums.append(own)
            # The sums are read when the next batch is under way: the device never waits, and at most two batches are in
            # memory.
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
    """Returns the means that follow from the sums of :meth:`Learner.eval_step`.

    Args:
      totals: the sums.
      text_term: the term from which perplexity and bits per byte are computed, see ``Traits.text_term``.
      measures: the names of terms that are not losses.
      text: the known facts about the bytes of the text; if ``None``, only the vocabulary's bytes per token are used.
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
