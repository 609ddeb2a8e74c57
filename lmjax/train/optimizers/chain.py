"""From an optimizer's configuration to the transformation of gradients that a run applies.

    update = -learning_rate * schedule(step) * (direction(gradient) + weight_decay * parameter)

There are two exceptions. The bias of a router has the load of its experts in the place of a gradient, and moves against
this load. The norm of the gradient is clipped before, by :func:`~lmjax.train.optimizers.clip_by_norm`, so that the step
computes the norm once, for clipping and for the metric.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lmjax.models.routing import BIAS_KIND
from lmjax.schedules.learning_rate import Schedule
from lmjax.train.optimizers.kinds import decays, trained
from lmjax.train.optimizers.optimizer import AveragingOptimizer, Optimizer
from lmjax.train.optimizers.width import width_factors
from lmjax.types import PyTree


def build_optimizer(
    optimizer: Optimizer, *, schedule: Schedule, kinds: PyTree, axes: PyTree, width_ratio: float = 1.0
) -> optax.GradientTransformation:
    """Returns the gradient transformation of a run; it counts its own steps, so it needs no number from the host.

    Args:
      optimizer: the configuration of the optimizer.
      schedule: the function from the step to the multiplier of ``optimizer.learning_rate``, from
        ``schedule.build_schedule``.
      kinds: a tree like the parameters, with the kind of each as a string, see :func:`~lmjax.train.optimizers.decays`.
        The transformation must not be given frozen parameters: give it the result of
        :func:`~lmjax.train.optimizers.trained`.
      axes: a tree like the parameters, with a tuple of logical axis names for each; along leading ``"layers"`` and
        ``"experts"`` axes, parameters are stacked that are treated one by one.
      width_ratio: see :func:`~lmjax.train.optimizers.width_factors`.

    Raises:
      ValueError: a parameter has an unknown kind, or the optimizer has no rule for the width.
    """
    if width_ratio != 1 and not optimizer.follows_width:
        raise ValueError(
            f"optimizer={type(optimizer).__name__}: model.width_base scales the learning rate of AdamW and Lion only: "
            f"use one of them, or set model.width_base to None"
        )
    kinds, axes = trained(kinds, kinds), trained(axes, kinds)
    direction = optimizer.direction(kinds, axes)
    if width_ratio != 1:
        direction = optax.chain(direction, _multiplied(width_factors(kinds, axes, width_ratio)))
    decayed = decays(kinds, embeddings=optimizer.decay_embeddings)
    decay = _add_cautious_decay if optimizer.cautious_decay else optax.add_decayed_weights
    parts = [direction, decay(optimizer.weight_decay, mask=decayed)]
    factors = jax.tree.map(optimizer.rate_factor, kinds, axes)
    if any(factor != 1 for factor in jax.tree.leaves(factors)):
        parts.append(_multiplied(factors))

    def learning_rate(step: jax.Array | int) -> jax.Array:
        return optimizer.learning_rate * schedule(step)

    chain = optimizer.around(optax.chain(*parts, optax.scale_by_learning_rate(learning_rate)), learning_rate)

    def update(grads, state, params=None):
        updates, state = chain.update(grads, state, params)

        def against_load(kind: str, update: jax.Array, load: jax.Array) -> jax.Array:
            return -optimizer.router_bias_rate * jnp.sign(load) if kind == BIAS_KIND else update

        return jax.tree.map(against_load, kinds, updates, grads), state

    return optax.GradientTransformation(chain.init, update)


def average_of(optimizer: Optimizer, kinds: PyTree) -> Callable[[PyTree, PyTree], Any] | None:
    """Returns the function that gives the parameters to evaluate, or None if the optimizer keeps no average.

    Its arguments are the optimizer's state and the trained parameters.

    Args:
      optimizer: the configuration of the run's optimizer.
      kinds: a tree like the parameters, with the kind of each.
    """
    if not isinstance(optimizer, AveragingOptimizer):
        return None
    return functools.partial(optimizer.average, kinds=trained(kinds, kinds))


def _multiplied(factors: PyTree) -> optax.GradientTransformation:
    """Returns a transformation that multiplies each parameter's update by its factor."""
    return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors))


def _add_cautious_decay(weight_decay: float, mask: PyTree) -> optax.GradientTransformation:
    """Returns weight decay of only those weights that have the sign of what is subtracted from them.

    This is equation 1 of Chen et al. 2025.
    """

    def add(updates, params):
        def with_decay(decays: bool, update: jax.Array, param: jax.Array) -> jax.Array:
            return update + weight_decay * jnp.where(update * param > 0, param, 0) if decays else update

        return jax.tree.map(with_decay, mask, updates, params)

    return optax.stateless(add)
