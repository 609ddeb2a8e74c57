"""Derives the learning rates of models of any width from those of one width (muP)."""

from collections.abc import Sequence
from typing import Any

import jax

from lmjax.train.optimizers.kinds import MATRIX_KINDS
from lmjax.train.optimizers.stacking import STACKING_AXES
from lmjax.types import PyTree


def width_factors(kinds: PyTree, axes: PyTree, ratio: float) -> Any:
    """Returns the factor of each parameter's learning rate in a model ``ratio`` times as wide as its base, for Adam.

    It is ``1 / ratio`` for matrices whose number of inputs grows with the width, and 1 for all others (Yang et al.
    2022, table 8, where the head's logits are divided instead; and table 3 for a router). Weight decay is not scaled.
    """

    def factor(kind: str, names: Sequence[str | None]) -> float:
        into = next(name for name in (*names, None) if name not in STACKING_AXES)
        grows = kind in MATRIX_KINDS and "vocab" not in names and into not in ("embedding", "buckets")
        return 1 / ratio if grows else 1.0

    return jax.tree.map(factor, kinds, axes)
