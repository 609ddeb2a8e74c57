"""The kinds of parameters, and what training does with each.

The number of dimensions does not tell what should decay: scanned layers stack their norm scales to [L, D], so a rule
such as "parameters of two or more dimensions decay" would be wrong.
"""

from typing import Any

import jax

from lmjax.models.routing import BIAS_KIND
from lmjax.types import PyTree

MATRIX_KINDS = ("matrix",)
EMBEDDING_KINDS = ("embedding", "position")
UNDECAYED_KINDS = ("norm", "bias", "scale", BIAS_KIND)
FROZEN = "frozen"
"""The kind of parameters that are not trained: they have no gradient, no optimizer state, no decay and no average."""


def trained(tree: PyTree, kinds: PyTree) -> Any:
    """Returns ``tree`` with None in the place of frozen parameters, so that only trained ones are left.

    ``jax.tree`` and optax treat None as an empty tree. :func:`with_frozen` fills these places again.

    Args:
      tree: the parameters, or a tree with a value or a subtree for each parameter.
      kinds: a tree like the parameters, with the kind of each as a string.
    """
    return jax.tree.map(lambda kind, part: None if kind == FROZEN else part, kinds, tree)


def with_frozen(part: PyTree, params: PyTree) -> Any:
    """Returns ``part``, a result of :func:`trained`, with the frozen parameters of ``params`` in the place of None."""
    return jax.tree.map(lambda new, old: old if new is None else new, part, params, is_leaf=lambda leaf: leaf is None)


def decays(kinds: PyTree, *, embeddings: bool) -> Any:
    """Returns for each parameter whether weight decay applies to it, as booleans in the structure of ``kinds``.

    Kind ``"matrix"`` decays; ``"embedding"`` and ``"position"`` decay if ``embeddings`` is true; ``"norm"``,
    ``"bias"``, ``"scale"`` and ``"router_bias"`` never decay.

    Raises:
      ValueError: a kind is unknown; a guess could train it wrongly without any notice.
    """

    known = MATRIX_KINDS + EMBEDDING_KINDS + UNDECAYED_KINDS

    def decay(path: tuple, kind: str) -> bool:
        if kind not in known:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(f"parameter {name} is of unknown kind {kind!r}: use one of {', '.join(known)}")
        return kind in MATRIX_KINDS or (embeddings and kind in EMBEDDING_KINDS)

    return jax.tree_util.tree_map_with_path(decay, kinds)
