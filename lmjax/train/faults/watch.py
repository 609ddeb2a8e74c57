"""The part of a step that judges it on the devices: is it faulty, and does its update count?

Axes: C objectives that take turns (1 for most runs); W good steps that are remembered.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmjax.train.faults.policy import FaultPolicy, WatchfulPolicy
from lmjax.train.state import TrainState

WATCHED = ("loss", "grad_norm")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Watch:
    """The last good steps, as a ring that each good step overwrites at its oldest place.

    Attributes:
      loss_CW: float32, their losses.
      grad_norm_CW: float32, the norms of their gradients.
      count_C: int32, how many good steps there were in all.
    """

    loss_CW: jax.Array
    grad_norm_CW: jax.Array
    count_C: jax.Array


def new_watch(policy: FaultPolicy, num_components: int) -> Watch | None:
    """Returns the watch before the first step; None if the policy needs none."""
    if not isinstance(policy, WatchfulPolicy):
        return None
    shape = (num_components, policy.window)
    return Watch(loss_CW=jnp.zeros(shape), grad_norm_CW=jnp.zeros(shape), count_C=jnp.zeros(num_components, jnp.int32))


def judged(
    policy: FaultPolicy, before: TrainState, after: TrainState, metrics: dict[str, jax.Array], *, component: int
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the state that a step ends with under a policy, and its metrics.

    A step is faulty if its loss, the norm of its gradient or that of its update is not finite, or if one of the first
    two is too many times its median. The state is then the one before the step.

    Args:
      policy: the policy of the run; one without a watch returns ``after``.
      before: the state before the step.
      after: the state after the step.
      metrics: the metrics of the step; ``loss`` and ``grad_norm`` are read.
      component: the number of the objective that the step trains, among those that take turns.

    Returns:
      The state, and the metrics with ``faulty``, ``updates`` (the number that the state has had), and ``loss_ratio``
      and ``grad_norm_ratio`` (over the medians; 0 until there are medians).
    """
    if not isinstance(policy, WatchfulPolicy):
        return after, metrics
    watch: Watch = before.watch
    count = watch.count_C[component]
    values = {name: jnp.asarray(metrics[name], jnp.float32) for name in WATCHED}
    rings = {name: getattr(watch, f"{name}_CW")[component] for name in WATCHED}
    ratios = {name: _ratio(values[name], rings[name], known=count >= policy.window) for name in WATCHED}
    change = optax.tree.norm(jax.tree.map(jnp.subtract, after.params, before.params))
    faulty = ~jnp.isfinite(change)
    for name in WATCHED:
        bound = getattr(policy, f"{name}_ratio")
        faulty |= ~jnp.isfinite(values[name])
        faulty |= ratios[name] > (jnp.inf if bound is None else bound)
    after = jax.tree.map(lambda old, new: jnp.where(faulty, old, new), before, after)
    place = count % policy.window
    watch = Watch(
        count_C=watch.count_C.at[component].add(jnp.where(faulty, 0, 1)),
        **{
            f"{name}_CW": getattr(watch, f"{name}_CW")
            .at[component, place]
            .set(jnp.where(faulty, rings[name][place], values[name]))
            for name in WATCHED
        },
    )
    metrics = {**metrics, "faulty": faulty, "updates": after.step}
    metrics |= {f"{name}_ratio": ratio for name, ratio in ratios.items()}
    return dataclasses.replace(after, watch=watch), metrics


def _ratio(value: jax.Array, ring_W: jax.Array, *, known: jax.Array) -> jax.Array:
    median = jnp.median(ring_W)
    return jnp.where(known & (median > 0), value / jnp.where(median > 0, median, 1.0), 0.0)


def to_json(watch: Watch | None) -> dict[str, Any] | None:
    """Returns a watch as JSON values, which hold each float32 exactly; every process must call this."""
    if watch is None:
        return None
    return {field.name: np.asarray(getattr(watch, field.name)).tolist() for field in dataclasses.fields(watch)}


def from_json(saved: object, fresh: Watch | None) -> Watch | None:
    """Returns the watch that a checkpoint holds; the fresh one if it holds none of this policy's size.

    Args:
      saved: what :func:`to_json` returned, or anything else.
      fresh: the watch before any step, with the shardings that are wanted.
    """
    if fresh is None or not isinstance(saved, Mapping):
        return fresh
    try:
        arrays = {name: np.asarray(saved[name], leaf.dtype) for name, leaf in vars(fresh).items()}
    except (KeyError, TypeError, ValueError, OverflowError):
        return fresh
    if any(array.shape != getattr(fresh, name).shape for name, array in arrays.items()):
        return fresh
    return Watch(**{name: jax.device_put(array, getattr(fresh, name).sharding) for name, array in arrays.items()})
