"""Hidden matrices: which parameters they are, how these are read as matrices, and how they get a rule of their own.

Legend of this module: S matrices of a stack, M inputs, N outputs.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax

from lmjax.train.optimizers.kinds import MATRIX_KINDS
from lmjax.train.optimizers.stacking import STACKING_AXES
from lmjax.types import PyTree

HEAD_AXES = ("heads", "kv_heads", "groups")
"""Axes that count heads or groups. Such an axis and the axis after it together are one side of a matrix."""
HIDDEN_AXES = (*HEAD_AXES, "head_width", "rope_width", "state", "embed", "mlp", "latent", "rank", "mixes", "joined")
"""Axes of hidden matrices. A matrix with any other axis, such as the vocabulary, a router's choices, classes or input
features, is not a hidden matrix."""

MatrixAxes = tuple[int, int]
"""How many leading axes of a parameter stack matrices, and how many of the next axes are a matrix's inputs."""


class SplitState(NamedTuple):
    """The states of two rules; the trees of each have None for the parameters of the other."""

    hidden: Any
    others: Any


def matrix_axes(kind: str, axes: Sequence[str | None]) -> MatrixAxes | None:
    """Returns how a hidden matrix is read as a matrix, or None for any other parameter.

    ``("layers", "embed", "heads", "head_width")`` is a stack of matrices from ``embed`` to all heads: (1, 1). The axes
    that neither stack matrices nor are inputs are outputs.
    """
    depth = sum(1 for _ in itertools.takewhile(lambda name: name in (*STACKING_AXES, "mixes"), axes))
    own = axes[depth:]
    if kind not in MATRIX_KINDS or not set(own) <= set(HIDDEN_AXES):
        return None
    num_in = 2 if own and own[0] in HEAD_AXES else 1
    return (depth, num_in) if num_in < len(own) else None


def as_matrices(array: jax.Array, read_as: MatrixAxes) -> jax.Array:
    """Returns a parameter, or an array of its shape, as [S, M, N]; ``reshape`` to its own shape is the inverse."""
    depth, num_in = read_as
    stack, inputs, outputs = array.shape[:depth], array.shape[depth : depth + num_in], array.shape[depth + num_in :]
    return array.reshape(math.prod(stack), math.prod(inputs), math.prod(outputs))


def by_rule(
    hidden: optax.GradientTransformation, others: optax.GradientTransformation, *, kinds: PyTree, axes: PyTree
) -> optax.GradientTransformation:
    """Returns a transformation that applies one rule to hidden matrices and another to all other parameters.

    Args:
      hidden: the rule for hidden matrices; its trees have None in the place of other parameters.
      others: the rule for all others; its trees have None in the place of hidden matrices.
      kinds: a tree like the parameters, with the kind of each.
      axes: a tree like the parameters, with a tuple of logical axis names for each.
    """
    is_hidden = jax.tree.map(lambda kind, names: matrix_axes(kind, names) is not None, kinds, axes)

    def pick(tree: PyTree, wanted: bool) -> Any:
        return jax.tree.map(lambda of_hidden, leaf: leaf if of_hidden == wanted else None, is_hidden, tree)

    def init(params):
        return SplitState(hidden.init(pick(params, True)), others.init(pick(params, False)))

    def update(grads, state, params=None):
        assert params is not None, "pass the parameters to update"
        matrices, hidden_state = hidden.update(pick(grads, True), state.hidden, pick(params, True))
        rest, others_state = others.update(pick(grads, False), state.others, pick(params, False))
        updates = jax.tree.map(lambda of_hidden, own, other: own if of_hidden else other, is_hidden, matrices, rest)
        return updates, SplitState(hidden_state, others_state)

    return optax.GradientTransformation(init, update)


def matrices_read_as(kinds: PyTree, axes: PyTree) -> list[MatrixAxes]:
    """Returns how each hidden matrix is read, in the order in which the rule for them gets its leaves."""
    read = jax.tree.leaves(
        jax.tree.map(lambda kind, names: matrix_axes(kind, names) or (), kinds, axes),
        is_leaf=lambda node: isinstance(node, tuple),
    )
    return [axes_of for axes_of in read if axes_of]
