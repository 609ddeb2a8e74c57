"""Vectors of texts, by a run whose model was trained to compare texts."""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.decode.prompts import padded
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.objectives import Contrastive
from lmjax.runs.opened import Opened
from lmjax.types import Rows

Role = Literal["query", "key"]


def embed(run: Opened, texts: Sequence[str], *, role: Role = "query", batch_size: int = 32) -> np.ndarray:
    """Returns the vector of each text, float32 [N, D].

    Args:
      run: a run of the objective ``Contrastive``.
      texts: one or more.
      role: which encoder reads them, where queries and keys have an encoder each.
      batch_size: the number of texts that are read at the same time.

    Raises:
      ValueError: the run was trained for something else, or a text is empty or too long.
    """
    objective = run.config.objective
    if not isinstance(objective, Contrastive):
        raise ValueError(
            f"{type(objective).__name__} does not train vectors of texts: embed with a run of the objective Contrastive"
        )
    if role not in ("query", "key"):
        raise ValueError(f"role={role!r}: use query or key")
    vocabulary, data = run.tokenizer.vocabulary, run.config.data
    before = [vocabulary.require("bos", needed_by="data.add_bos=True")] if data.add_bos else []
    after = [vocabulary.require("eos", needed_by="data.add_eos=True")] if data.add_eos and _ends(run) else []
    rows = [[*before, *run.tokenizer.encode(text).tolist(), *after] for text in texts]
    for number, row in enumerate(rows, start=1):
        if not row:
            raise ValueError(f"text {number} is empty: an empty text has no vector")
        if run.max_length is not None and len(row) > run.max_length:
            raise ValueError(
                f"text {number} has {len(row)} tokens and the model has learned {run.max_length} positions: shorten it"
            )
    vectors = []
    for begin in range(0, len(rows), batch_size):
        tokens_BT, lengths_B = padded(rows[begin : begin + batch_size])
        vectors.append(
            np.asarray(_vectors(run.params, tokens_BT, lengths_B, spec=run.spec, objective=objective, role=role))
        )
    return np.concatenate(vectors) if vectors else np.zeros((0, run.config.model.width), np.float32)


def _ends(run: Opened) -> bool:
    return run.config.data.packing != "windows"


@functools.partial(jax.jit, static_argnames=("spec", "objective", "role"))
def _vectors(
    params: Params,
    tokens_BT: jax.Array,
    lengths_B: jax.Array,
    *,
    spec: ModuleSpec,
    objective: Contrastive,
    role: Role,
) -> jax.Array:
    segments_BT = (jnp.arange(tokens_BT.shape[1])[None, :] < lengths_B[:, None]).astype(jnp.int32)
    rows = Rows(tokens_BT=tokens_BT, segments_BT=segments_BT)
    return objective.embed(spec.bind(params), rows, as_key=role == "key")
