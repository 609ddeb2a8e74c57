"""Stochastic gradient descent with momentum (Polyak 1964)."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import optax

from lmjax.train.optimizers.optimizer import Optimizer
from lmjax.types import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """The direction is the accumulated gradient, ``momentum`` times the one before plus the gradient."""

    momentum: float = 0.9
    """Decay of the accumulated gradient; 0 takes the gradient itself."""
    moment_dtype: Literal["float32", "bfloat16"] | None = None
    """Type that it is kept in; that of the parameter when unset."""

    def __post_init__(self):
        super().__post_init__()
        self._check_decay_rate("momentum")

    def direction(self, kinds: PyTree, axes: PyTree) -> optax.GradientTransformation:
        """Returns optax's trace of gradients."""
        del kinds, axes
        moment_dtype = None if self.moment_dtype is None else jnp.dtype(self.moment_dtype)
        return optax.trace(self.momentum, accumulator_dtype=moment_dtype)
