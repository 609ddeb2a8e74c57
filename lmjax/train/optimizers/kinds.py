"""The kinds of parameters, and what training does with each.

A rule on the number of dimensions, such as "two or more decay", goes wrong: scanned layers stack their norm scales to
[L, D].
"""

from typing import Any

import jax

from lmjax.models.routing import BIAS_KIND
from lmjax.types import PyTree

MATRIX_KINDS = ("matrix",)
EMBEDDING_KINDS = ("embedding", "position")
UNDECAYED_KINDS = ("norm", "bias", "scale", BIAS_KIND)
FROZEN = "frozen"
"""The kind of parameters that are given: they have no gradient, no optimizer state, no decay and no average."""


def trained(tree: PyTree, kinds: PyTree) -> Any:
    """What is there for parameters that are trained: ``tree`` without its subtrees beside frozen ones.

    In their place is ``None``, which ``jax.tree`` and optax take for nothing; :func:`with_frozen` fills it.

    Args:
      tree: parameters, or something for each parameter.
      kinds: like the parameters, a string for each.
    """
    return jax.tree.map(lambda kind, part: None if kind == FROZEN else part, kinds, tree)


def with_frozen(part: PyTree, params: PyTree) -> Any:
    """The whole again: ``part``, from :func:`trained`, and where it has nothing ``params``."""
    return jax.tree.map(lambda new, old: old if new is None else new, part, params, is_leaf=lambda leaf: leaf is None)


def decays(kinds: PyTree, *, embeddings: bool) -> Any:
    """Which parameters weight decay applies to, as booleans in the structure of ``kinds``.

    Kind ``"matrix"`` decays; ``"embedding"`` and ``"position"`` when ``embeddings``; ``"norm"``,
    ``"bias"``, ``"scale"`` and ``"router_bias"`` never.

    Raises:
      ValueError: any other kind: to guess would be to train it wrongly in silence.
    """

    known = MATRIX_KINDS + EMBEDDING_KINDS + UNDECAYED_KINDS

    def decay(path: tuple, kind: str) -> bool:
        if kind not in known:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(f"parameter {name} is of unknown kind {kind!r}: use one of {', '.join(known)}")
        return kind in MATRIX_KINDS or (embeddings and kind in EMBEDDING_KINDS)

    return jax.tree_util.tree_map_with_path(decay, kinds)
