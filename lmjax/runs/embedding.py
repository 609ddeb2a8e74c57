"""Vectors of texts, by a run whose model was trained to compare texts."""

from collections.abc import Sequence

import numpy as np

from lmjax.runs.opened import Opened
from lmjax.train.text_vectors import Role, check_compares_texts, text_vectors


def embed(run: Opened, texts: Sequence[str], *, role: Role = "query", batch_size: int = 32) -> np.ndarray:
    """Returns the vector of each text, float32 [N, D].

    Args:
      run: a run of the objective ``Contrastive``.
      texts: any number of them.
      role: which encoder reads them, where queries and keys have an encoder each.
      batch_size: the number of texts that are read at the same time.

    Raises:
      ValueError: the run was trained for something else, or a text is empty or too long.
    """
    objective = check_compares_texts(run.config.objective)
    if role not in ("query", "key"):
        raise ValueError(f"role={role!r}: use query or key")
    if not texts:
        return np.zeros((0, run.config.model.width), np.float32)
    return text_vectors(
        objective,
        run.spec,
        run.params,
        texts,
        tokenizer=run.tokenizer,
        data=run.config.data,
        role=role,
        max_length=run.max_length,
        batch_size=batch_size,
    )
