"""Parameters that are several of a kind in one array, along leading axes."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax

STACKING_AXES = ("layers", "experts")
"""Leading axes of parameters that are many of a kind in one array."""


def is_axes(leaf: Any) -> bool:
    """Returns whether a node of a tree of axes is the axes of one parameter."""
    return isinstance(leaf, tuple)


def num_stacking_axes(names: Sequence[str | None]) -> int:
    """Returns how many leading axes of a parameter stack parameters."""
    return sum(1 for _ in itertools.takewhile(lambda name: name in STACKING_AXES, names))


def vmapped(function: Callable, depth: int) -> Callable:
    """Returns ``function`` over ``depth`` leading axes."""
    for _ in range(depth):
        function = jax.vmap(function)
    return function
