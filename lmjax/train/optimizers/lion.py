"""Lion: the sign of a momentum (Chen et al. 2023)."""

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
import optax

from lmjax.train.optimizers.optimizer import Optimizer
from lmjax.types import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """The direction is the sign of ``beta1 momentum + (1 - beta1) gradient``."""

    beta1: float = 0.9
    """Share of the momentum in the direction."""
    beta2: float = 0.99
    """Decay of the momentum."""
    moment_dtype: Literal["float32", "bfloat16"] | None = None
    """Type that the momentum is kept in; that of the parameter when unset."""

    follows_width: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        self._check_decay_rate("beta1", "beta2")

    def direction(self, kinds: PyTree, axes: PyTree) -> optax.GradientTransformation:
        """Returns optax's Lion without its learning rate."""
        del kinds, axes
        moment_dtype = None if self.moment_dtype is None else jnp.dtype(self.moment_dtype)
        return optax.scale_by_lion(self.beta1, self.beta2, moment_dtype)
