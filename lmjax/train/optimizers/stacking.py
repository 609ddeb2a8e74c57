"""Parameters that are stacked in one array along leading axes."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax

STACKING_AXES = ("layers", "experts")
"""The leading axes along which parameters are stacked."""


def is_axes(leaf: Any) -> bool:
    """Returns whether a node of a tree of axes is the axes of one parameter."""
    return isinstance(leaf, tuple)


def num_stacking_axes(names: Sequence[str | None]) -> int:
    """Returns the number of leading axes along which a parameter is a stack of parameters."""
    return sum(1 for _ in itertools.takewhile(lambda name: name in STACKING_AXES, names))


def vmapped(function: Callable, depth: int) -> Callable:
    """Returns ``function`` applied to each entry of ``depth`` leading axes, by ``jax.vmap``."""
    for _ in range(depth):
        function = jax.vmap(function)
    return function
