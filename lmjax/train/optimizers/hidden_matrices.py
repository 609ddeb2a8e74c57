"""Which parameters are hidden matrices, how they are read as matrices, and one rule for them and another for the rest.

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
"""Axes that make one side of a matrix together with the axis after them: heads and what each of them has."""
HIDDEN_AXES = (*HEAD_AXES, "head_width", "rope_width", "state", "embed", "mlp", "latent", "rank", "mixes", "joined")
"""Axes of hidden matrices. A matrix with any other axis, such as the vocabulary, a router's choices, classes or input
features, is none."""

MatrixAxes = tuple[int, int]
"""How many leading axes of a parameter stack matrices, and how many axes then are a matrix's inputs."""


class SplitState(NamedTuple):
    """The states of two rules, whose trees have None for the parameters of the other."""

    hidden: Any
    others: Any


def matrix_axes(kind: str, axes: Sequence[str | None]) -> MatrixAxes | None:
    """Returns how a hidden matrix is read, and None for any other parameter.

    ``("layers", "embed", "heads", "head_width")`` is a stack of matrices from ``embed`` to all heads: (1, 1). What
    neither stacks matrices nor is an input is an output.
    """
    depth = sum(1 for _ in itertools.takewhile(lambda name: name in (*STACKING_AXES, "mixes"), axes))
    own = axes[depth:]
    if kind not in MATRIX_KINDS or not set(own) <= set(HIDDEN_AXES):
        return None
    num_in = 2 if own and own[0] in HEAD_AXES else 1
    return (depth, num_in) if num_in < len(own) else None


def as_matrices(array: jax.Array, read_as: MatrixAxes) -> jax.Array:
    """Returns a parameter, or an array like it, as [S, M, N]; ``reshape`` to its own shape is the inverse."""
    depth, num_in = read_as
    stack, inputs, outputs = array.shape[:depth], array.shape[depth : depth + num_in], array.shape[depth + num_in :]
    return array.reshape(math.prod(stack), math.prod(inputs), math.prod(outputs))


def by_rule(
    hidden: optax.GradientTransformation, others: optax.GradientTransformation, *, kinds: PyTree, axes: PyTree
) -> optax.GradientTransformation:
    """Returns a transformation that applies one rule to hidden matrices and another to all other parameters.

    Args:
      hidden: sees trees that have None in the place of other parameters.
      others: sees trees that have None in the place of hidden matrices.
      kinds: like the parameters, the kind of each.
      axes: like the parameters, a tuple of logical axis names for each.
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
    """Returns how each hidden matrix is read, in the order of the leaves that the rule for them sees."""
    read = jax.tree.leaves(
        jax.tree.map(lambda kind, names: matrix_axes(kind, names) or (), kinds, axes),
        is_leaf=lambda node: isinstance(node, tuple),
    )
    return [axes_of for axes_of in read if axes_of]
