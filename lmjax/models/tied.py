"""The table of a tied head as a second input, so that what the head adds to its gradient is kept apart.

Over several devices each of the two uses of the table, the lookup and the head, ends its gradient with a sum over the
devices. XLA moves such a sum out of a loop over microbatches, but not the sum of two of them.
"""

from collections.abc import Sequence

import jax
from flax import nnx

from lmjax.models.transformer import Transformer


def tied_tables(module: nnx.Module) -> list[jax.Array]:
    """Returns the tables [V, D] that trained heads share with embeddings, in an order that only the module decides.

    Those of models with ``table_gradient="microbatch"`` are not among them: their two gradients are not kept apart.
    """
    return [_table(model)[...] for model in _tied_models(module)]


def read_by_heads(module: nnx.Module, tables: Sequence[jax.Array]) -> None:
    """Makes the heads read these tables in place of their embeddings' own; no tables change nothing.

    Args:
      module: the module, which may hold several models.
      tables: as many as :func:`tied_tables` returns, in its order, or none.
    """
    if tables:
        for model, table_VD in zip(_tied_models(module), tables, strict=True):
            model.head_table_VD = nnx.data(table_VD)


def _tied_models(module: nnx.Module) -> list[Transformer]:
    models = [part for _, part in nnx.iter_modules(module) if isinstance(part, Transformer)]
    return [
        model
        for model in models
        if model.config.tie_embeddings
        and model.config.execution.table_gradient == "step"
        # A model that borrows another's embedding (ELECTRA's generator) has none of its own.
        and hasattr(model, "embedding")
        and _table(model).kind != "frozen"
    ]


def _table(model: Transformer) -> nnx.Param:
    assert model.embedding is not None
    return model.embedding.table_VD
