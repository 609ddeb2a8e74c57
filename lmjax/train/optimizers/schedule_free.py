"""Schedule-Free AdamW (Defazio et al. 2024)."""

import dataclasses
from typing import Any

import jax
import optax
import optax.contrib

from lmjax.models.routing import BIAS_KIND
from lmjax.schedules.learning_rate import Schedule
from lmjax.train.optimizers.optimizer import AveragingOptimizer
from lmjax.types import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleFree(AveragingOptimizer):
    """AdamW whose momentum and decay of the learning rate are replaced by an average of all points so far.

        y = (1 - beta1) z + beta1 x             where the gradient is taken: the parameters that are trained
        z <- z - learning_rate * (g / rms(g) + weight_decay * y)
        x <- (1 - c) x + c z                    the average, c the share of this step in the sum of squared rates

    Validation, sampling and export use x. The learning rate is to be constant after its warm-up.
    """

    learning_rate: float = 2.5e-3
    """Peak learning rate, which is reached after the warm-up and stays; larger than AdamW's."""
    beta1: float = 0.9
    """Share of the average in the point where the gradient is taken."""
    beta2: float = 0.95
    """Decay of the mean squared gradient."""
    epsilon: float = 1e-8
    """Added to its root."""

    def __post_init__(self):
        super().__post_init__()
        self._check_decay_rate("beta1", "beta2")
        self._check_above_zero("beta1", "epsilon")

    def direction(self, kinds: PyTree, axes: PyTree) -> optax.GradientTransformation:
        """Returns Adam's direction without its first moment."""
        del kinds, axes
        return optax.scale_by_rms(self.beta2, self.epsilon, eps_in_sqrt=False, bias_correction=True)

    def around(self, chain: optax.GradientTransformation, learning_rate: Schedule) -> optax.GradientTransformation:
        """Returns optax's Schedule-Free around the steps of z; it counts steps from 1, the schedule counts from 0."""
        return optax.contrib.schedule_free(chain, lambda count: learning_rate(count - 1), b1=self.beta1)

    def average(self, state: PyTree, params: PyTree, kinds: PyTree) -> Any:
        """Returns x, given the parameters y. The bias of a router takes steps of a fixed size and is not averaged."""
        averaged = optax.contrib.schedule_free_eval_params(state, params)
        return jax.tree.map(lambda kind, x, y: y if kind == BIAS_KIND else x, kinds, averaged, params)
