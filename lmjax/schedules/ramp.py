"""Scalars of an objective that change during training: mask rates, temperatures, weights of terms.

A field annotated ``Scalar`` holds a number or a :class:`Ramp`. :func:`at_step` gives every ramp of an
objective its value at a training step. A corruption then reads that value with :func:`current` (it may be
traced), and with :func:`highest` where an array's shape depends on it.
"""

import dataclasses
import math
import operator
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp

from lmjax.schedules.decays import inverse_sigmoid_decay, linear_decay

Record = TypeVar("Record")

SHAPES = ("linear", "cosine", "exponential", "inverse_sigmoid", "step")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ramp:
    """A value that moves from ``start`` at step 0 to ``end`` at step ``steps``, and stays at ``end``.

    With ``p = step / steps`` in [0, 1], the value is ``end + (start - end) left(p)``:

    - linear: ``left = 1 - p``; cosine: ``left = (1 + cos(pi p)) / 2``, flat at both ends;
    - exponential: the value is ``start (end / start)^p``, a constant factor a step;
    - inverse_sigmoid: ``left`` falls as ``k / (k + exp(step / k))`` (Bengio et al. 2015, section 2.4) with
      the k that puts its middle at ``steps / 2``, stretched to reach 1 and 0;
    - step: ``left = 1`` until step ``steps``, and 0 from there on.
    """

    start: float
    """Value at the first step."""
    end: float
    """Value from step `steps` on, and in evaluation."""
    steps: int
    """Number of steps between the two."""
    shape: Literal["linear", "cosine", "exponential", "inverse_sigmoid", "step"] = "linear"
    """The shape of the curve between the two."""

    def __post_init__(self):
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(f"ramp {self}: its ends must be finite numbers")
        if self.steps < 1:
            raise ValueError(f"ramp {self}: steps must be at least 1")
        if self.shape not in SHAPES:
            raise ValueError(f"ramp {self}: its shape must be one of {', '.join(SHAPES)}")
        if self.shape == "exponential" and not (self.start > 0 and self.end > 0):
            raise ValueError(f"ramp {self}: an exponential one needs both ends above 0: give a small number for 0")

    def __str__(self) -> str:
        """Returns the text that the command line takes: ``0.4:0.15:1000:linear``."""
        return f"{self.start}:{self.end}:{self.steps}:{self.shape}"

    @classmethod
    def parse(cls, text: str) -> "Ramp":
        """Returns the ramp that a text ``START:END:STEPS`` or ``START:END:STEPS:SHAPE`` describes.

        Raises:
          ValueError: the text does not have this form, or describes an impossible ramp.
        """
        parts = text.split(":")
        try:
            start, end, steps = float(parts[0]), float(parts[1]), int(parts[2])
            (shape,) = parts[3:] or ["linear"]
        except (ValueError, IndexError):
            raise ValueError(f"{text!r} is not a schedule: write START:END:STEPS or START:END:STEPS:SHAPE") from None
        return cls(start=start, end=end, steps=steps, shape=shape)  # type: ignore[arg-type]

    def value(self, step: jax.Array | int) -> jax.Array:
        """Returns the value at a step, a float32 scalar."""
        left = linear_decay(step, num_steps=self.steps)
        if self.shape == "exponential":
            return self.end * jnp.exp(math.log(self.start / self.end) * left)
        if self.shape == "step":
            left = jnp.where(jnp.asarray(step) < self.steps, 1.0, 0.0)
        if self.shape == "cosine":
            left = (1 - jnp.cos(jnp.pi * left)) / 2
        if self.shape == "inverse_sigmoid":
            k = _middle_at(self.steps / 2)
            falls = inverse_sigmoid_decay(jnp.minimum(step, self.steps), k=k)
            left = jnp.clip((falls * (k + 1) - 1) / (k - 1), 0.0, 1.0)
        return self.end + (self.start - self.end) * left

    def at(self, step: jax.Array | int) -> "Ramp":
        """Returns this ramp evaluated at ``step``; :func:`current` reads the value."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Ramp)}
        return _Standing(**fields, now=self.value(step))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Standing(Ramp):
    """A ramp that was evaluated at a step."""

    now: jax.Array


Scalar = float | Ramp
"""The type of a field that may follow a schedule."""


def current(scalar: Scalar) -> float | jax.Array:
    """Returns a number as it is, and of a ramp its value at the step of :func:`at_step`, a float32 scalar.

    Raises:
      TypeError: the ramp has not been evaluated at a step.
    """
    if isinstance(scalar, _Standing):
        return scalar.now
    if isinstance(scalar, Ramp):
        raise TypeError(
            f"the ramp {scalar} has no value without a step: use at_step(objective, step) or objective.for_evaluation()"
        )
    return scalar


def highest(scalar: Scalar) -> float:
    """Returns the largest value a scalar can have, for which static shapes are made."""
    return max(extremes(scalar))


def extremes(scalar: Scalar) -> tuple[float, float]:
    """Returns the first and the last value of a scalar; all others lie between them."""
    return (scalar.start, scalar.end) if isinstance(scalar, Ramp) else (scalar, scalar)


def ramps_of(record: Any) -> dict[str, Ramp]:
    """Returns the fields of a dataclass that hold a ramp, by name."""
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: value for name, value in values.items() if isinstance(value, Ramp)}


def at_step(record: Record, step: jax.Array | int) -> Record:
    """Returns a dataclass in which every ramp, however deep, is evaluated at ``step`` (which may be traced)."""
    return _changed(record, lambda ramp: ramp.at(step))


def at_end(record: Record) -> Record:
    """Returns a dataclass in which the end of every ramp, however deep, stands in the ramp's place."""
    return _changed(record, lambda ramp: ramp.end)


def _changed(value: Any, change: Callable[[Ramp], Any]) -> Any:
    if isinstance(value, Ramp):
        return change(value)
    if isinstance(value, tuple):
        items = [_changed(item, change) for item in value]
        return value if all(map(operator.is_, items, value)) else tuple(items)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    old = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    new = {name: _changed(part, change) for name, part in old.items()}
    new = {name: part for name, part in new.items() if part is not old[name]}
    return dataclasses.replace(value, **new) if new else value


def _middle_at(step: float) -> float:
    """Solves ``k log k = step`` for k by Newton's method: at this step the inverse sigmoid with k is one half."""
    k = 1 + step
    for _ in range(50):
        k = (k + step) / (1 + math.log(k))
    return k
