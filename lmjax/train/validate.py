"""Validation: exact corpus means of the loss terms over a fixed set of rows."""

from collections.abc import Callable, Collection, Iterable

import jax
import jax.numpy as jnp

from lmjax.data.pipeline import batches, device_batches, process_share
from lmjax.data.rows import RowSource
from lmjax.losses import bits_per_byte, perplexity
from lmjax.models.parameters import Params
from lmjax.train.scored import refuse_unscored
from lmjax.train.step import Learner
from lmjax.types import Rows


def fixed_batches(learner: Learner, rows: RowSource, *, batch_size: int, num_batches: int) -> Iterable[Rows]:
    """The first ``num_batches`` batches of an epoch (0: all of it), the last filled up with weightless rows."""
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
    learner: Learner, params: Params, rows: Iterable[Rows], *, after_batch: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """``loss`` (mean nats of a scored token), ``perplexity``, ``bits_per_byte``, and ``<term>/loss`` of further terms.

    Where no term is called ``loss`` that is the objective's total. Of a mixture there is ``<name>/loss`` and
    so on of each of its objectives, all on the same rows, and ``loss``, their mean by weight. Batch ``i`` is
    corrupted with a key made of ``i`` alone, so that two validations see the same. ``after_batch`` is called when
    a batch has been computed.

    Raises:
      NothingScored: an objective has no position that counts in any of the rows.
    """
    key = jax.random.key(0)
    totals = None
    # Rows that go on from batch to batch begin each validation with nothing to remember.
    carries = {name: one.empty_carry() for name, one in learner.components.items()}
    with jax.set_mesh(learner.mesh):
        for index, batch in enumerate(rows):
            batch_key = jax.random.fold_in(key, index)
            sums = {}
            for name, one in learner.components.items():
                sums[name], carries[name] = one.eval_step(params, batch, batch_key, carries[name])
            # One batch is computed while the next is made ready, and no more of them wait in memory.
            jax.block_until_ready(totals)
            after_batch()
            totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
    assert totals is not None, "a split has at least one row"
    numbers = jax.tree.map(float, jax.device_get(totals))
    terms: dict[str, jax.Array] = {}
    result: dict[str, float] = {}
    for name, sums in numbers.items():
        refuse_unscored(sums, name, learner.components[name].objective)
        prefix = f"{name}/" if name else ""
        terms |= {f"{prefix}{term}": jnp.asarray(mean) for term, mean in term_means(sums).items()}
        own = means(sums, measures=learner.components[name].objective.measures)
        result |= {f"{prefix}{metric}": value for metric, value in own.items()}
    return {"loss": float(learner.objective.for_evaluation().total(terms))} | result


def means(totals: dict[str, float], *, measures: Collection[str] = ()) -> dict[str, float]:
    """From the sums of :meth:`Learner.eval_step` to means; ``measures`` are terms that are no losses."""
    result = {
        (term if term == "loss" or term in measures else f"{term}/loss"): mean
        for term, mean in term_means(totals).items()
    }
    if "loss" in result:
        result["perplexity"] = float(perplexity(result["loss"]))
    if totals.get("bytes"):
        result["bits_per_byte"] = float(bits_per_byte(totals["loss"], totals["bytes"]))
    return result


def term_means(totals: dict[str, float]) -> dict[str, float]:
    """The mean of each term."""
    terms = [name.removesuffix("/weight") for name in totals if name.endswith("/weight")]
    return {term: totals[term] / max(totals[f"{term}/weight"], 1e-9) for term in terms}
