"""Vectors of texts, by a model that was trained to compare texts."""

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.data.config import DataConfig
from lmjax.decode.prompts import padded
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.objectives import Contrastive, Objective
from lmjax.parallel.mesh import constrain
from lmjax.tokenizers import Tokenizer
from lmjax.types import Rows

Role = Literal["query", "key"]


def check_compares_texts(objective: Objective) -> Contrastive:
    """Returns the objective if it trains vectors of texts.

    Raises:
      ValueError: it trains something else.
    """
    if not isinstance(objective, Contrastive):
        raise ValueError(
            f"{type(objective).__name__} does not train vectors of texts: embed with a run of the objective Contrastive"
        )
    return objective


def text_vectors(
    objective: Contrastive,
    spec: ModuleSpec,
    params: Params,
    texts: Sequence[str],
    *,
    tokenizer: Tokenizer,
    data: DataConfig,
    role: Role,
    max_length: int | None = None,
    batch_size: int = 32,
    after_batch: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """Returns the vector of each text, float32 [N, D].

    Args:
      objective: says how a text becomes a vector.
      spec: the trained module.
      params: its parameters.
      texts: one or more.
      tokenizer: the run's tokenizer.
      data: the configuration of the run's data, which says what stands around a text.
      role: which encoder reads them, where queries and keys have an encoder each.
      max_length: the number of positions that the model has learned; None where it has no such limit.
      batch_size: the number of texts that are read at the same time.
      after_batch: called after each batch.

    Raises:
      ValueError: a text is empty or too long.
    """
    vocabulary = tokenizer.vocabulary
    before = [vocabulary.require("bos", needed_by="data.add_bos=True")] if data.add_bos else []
    ends = data.add_eos and data.packing != "windows"
    after = [vocabulary.require("eos", needed_by="data.add_eos=True")] if ends else []
    rows = [[*before, *tokenizer.encode(text).tolist(), *after] for text in texts]
    for number, row in enumerate(rows, start=1):
        if not row:
            raise ValueError(f"text {number} is empty: an empty text has no vector")
        if max_length is not None and len(row) > max_length:
            raise ValueError(
                f"text {number} has {len(row)} tokens and the model has learned {max_length} positions: shorten it"
            )
    vectors = []
    for begin in range(0, len(rows), batch_size):
        tokens_BT, lengths_B = padded(rows[begin : begin + batch_size])
        vectors.append(np.asarray(_vectors(params, tokens_BT, lengths_B, spec=spec, objective=objective, role=role)))
        after_batch()
    return np.concatenate(vectors)


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
    return constrain(objective.embed(spec.bind(params), rows, as_key=role == "key"), None, None)
