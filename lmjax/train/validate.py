"""Validation: exact corpus means of the loss terms over a fixed set of rows."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from lmjax.data.pipeline import batches, device_batches, process_share
from lmjax.data.rows import RowSource
from lmjax.losses import bits_per_byte, perplexity
from lmjax.models.parameters import Params
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


def validate(learner: Learner, params: Params, rows: Iterable[Rows]) -> dict[str, float]:
    """``loss`` (mean nats of a scored token), ``perplexity``, ``bits_per_byte``, or ``<term>/loss`` of each term.

    Batch ``i`` is corrupted with a key made of ``i`` alone, so that two validations see the same.
    """
    key = jax.random.key(0)
    totals = None
    with jax.set_mesh(learner.mesh):
        for index, batch in enumerate(rows):
            sums = learner.eval_step(params, batch, jax.random.fold_in(key, index))
            totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
    assert totals is not None, "a split has at least one row"
    return means({name: float(value) for name, value in jax.device_get(totals).items()})


def means(totals: dict[str, float]) -> dict[str, float]:
    """From the sums of :meth:`Learner.eval_step` to means."""
    terms = [name.removesuffix("/weight") for name in totals if name.endswith("/weight")]
    result = {
        (term if term == "loss" else f"{term}/loss"): totals[term] / max(totals[f"{term}/weight"], 1e-9)
        for term in terms
    }
    if "loss" in terms:
        result["perplexity"] = float(perplexity(result["loss"]))
    if totals.get("bytes"):
        result["bits_per_byte"] = float(bits_per_byte(totals["loss"], totals["bytes"]))
    return result
