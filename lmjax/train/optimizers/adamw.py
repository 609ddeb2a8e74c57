"""Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019)."""

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
import optax

from lmjax.train.optimizers.optimizer import Optimizer
from lmjax.types import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """The direction is the mean gradient over the root of the mean squared gradient, both corrected for their start."""

    beta1: float = 0.9
    """Decay of the mean of the gradient."""
    beta2: float = 0.95
    """Decay of the mean of its square."""
    epsilon: float = 1e-8
    """Added to the root."""
    moment_dtype: Literal["float32", "bfloat16"] | None = None
    """Type that the mean of the gradient is kept in; that of the parameter when unset."""

    follows_width: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        self._check_decay_rate("beta1", "beta2")
        self._check_above_zero("epsilon")

    def direction(self, kinds: PyTree, axes: PyTree) -> optax.GradientTransformation:
        """Returns optax's Adam without its learning rate."""
        del kinds, axes
        moment_dtype = None if self.moment_dtype is None else jnp.dtype(self.moment_dtype)
        return optax.scale_by_adam(self.beta1, self.beta2, self.epsilon, mu_dtype=moment_dtype)
