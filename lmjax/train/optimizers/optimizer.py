"""What every optimizer has: a learning rate, weight decay, clipping, and a direction of its own."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import optax

from lmjax.choice import Choice
from lmjax.field_types import check_literals
from lmjax.schedules.learning_rate import Schedule
from lmjax.types import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer(Choice, abc.ABC, home="lmjax.train.optimizers"):
    """How parameters are updated. A subclass is a dataclass of its options and defines :meth:`direction`."""

    learning_rate: float = 3e-4
    """Peak learning rate, which the schedule multiplies."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices, multiplied by the learning rate."""
    decay_embeddings: bool = False
    """Whether token and position embeddings decay too. Norms and biases never do."""
    cautious_decay: bool = False
    """Whether only those weights decay that the update makes smaller as well (Chen et al. 2025)."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient; None does not clip."""
    router_bias_rate: float = 1e-3
    """What a step adds to the bias of an expert with less than an even load and takes from the others'
    (`model.experts.balance_bias`). No schedule applies to it."""

    follows_width: ClassVar[bool] = False
    """Whether ``model.width_base`` has a rule for this optimizer, see :func:`lmjax.train.optimizers.width_factors`."""

    def __post_init__(self):
        """Refuses values that are out of bounds. Subclasses with options of their own call this first."""
        check_literals(self, "optimizer.")
        self._check_above_zero("learning_rate", "clip_norm")
        for name in ("weight_decay", "router_bias_rate"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must be 0 or more")

    def _check_above_zero(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must be above 0")

    def _check_decay_rate(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must be at least 0 and below 1")

    @abc.abstractmethod
    def direction(self, kinds: PyTree, axes: PyTree) -> optax.GradientTransformation:
        """Returns the transformation from gradients to the direction, which the step subtracts from the parameters.

        Weight decay and the learning rate are applied to the direction afterwards.

        Args:
          kinds: a tree like the parameters, with the kind of each as a string.
          axes: a tree like the parameters, with a tuple of logical axis names for each.
        """

    def rate_factor(self, kind: str, axes: Sequence[str | None]) -> float:
        """Returns the factor of the learning rate for a parameter of this kind with these axes."""
        del kind, axes
        return 1.0

    def around(self, chain: optax.GradientTransformation, learning_rate: Schedule) -> optax.GradientTransformation:
        """Returns the whole transformation, given the one that applies direction, decay and learning rate.

        Args:
          chain: the transformation from gradients to what is added to the parameters.
          learning_rate: the function from the step to the learning rate.
        """
        del learning_rate
        return chain

    def rule(self, kind: str, axes: Sequence[str | None]) -> str:
        """Returns the name of the rule that updates a parameter of this kind with these axes, for ``--dry-run``."""
        del kind, axes
        return type(self).__name__


@dataclasses.dataclass(frozen=True, kw_only=True)
class AveragingOptimizer(Optimizer):
    """An optimizer that averages the parameters itself. A subclass defines :meth:`average`, too."""

    @abc.abstractmethod
    def average(self, state: PyTree, params: PyTree, kinds: PyTree) -> PyTree:
        """Returns the parameters to validate, sample from and export.

        Args:
          state: the state of the transformation.
          params: the parameters that are trained.
          kinds: a tree like the parameters, with the kind of each.
        """
