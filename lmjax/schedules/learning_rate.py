"""Learning-rate schedules: a pure function from the step to a multiplier of the learning rate.

Every schedule warms up linearly, ``(step + 1) / (warmup + 1)``, so that the model learns at step 0 already. It is 1
at ``step = warmup``. With ``r`` the share of the decay that is done, in [0, 1], and ``f`` the final fraction, what
follows is

    constant       1
    linear         f + (1 - f) (1 - r)
    cosine         f + (1 - f) (1 + cos(pi r)) / 2        (Loshchilov and Hutter 2017, SGDR, section 3)
    wsd            1, then over the last share of the run f + (1 - f) (1 - r) or f + (1 - f) (1 - sqrt(r))
                   (Hu et al. 2024, MiniCPM, section 4; Hägele et al. 2024, section 3, for the root)
    inverse_sqrt   sqrt((warmup + 1) / (step + 1))        (Vaswani et al. 2017, section 5.3, peak made 1)
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from lmjax.field_types import check_literals

Schedule = Callable[[jax.Array | int], jax.Array]

_DEFAULT_FINAL = {"linear": 0.0, "cosine": 0.1, "wsd": 0.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate during the run, as a multiple of ``optimizer.learning_rate``."""

    kind: Literal["constant", "linear", "cosine", "wsd", "inverse_sqrt"] = "cosine"
    """Shape after the warm-up."""
    warmup_steps: int = 0
    """Steps of linear warm-up; the full learning rate is reached at this step."""
    final_fraction: float | None = None
    """Multiplier where the decay ends (unset: 0.1 for cosine, 0 for linear and wsd)."""
    end_step: int | None = None
    """Step at which the decay ends; the multiplier does not change after it (unset: the end of the run)."""
    decay_fraction: float | None = None
    """wsd only: share of the steps before the end that the decay takes (unset: 0.1)."""
    decay_shape: Literal["linear", "sqrt"] | None = None
    """wsd only: a linear decay, or one minus the square root (unset: linear)."""

    def __post_init__(self):
        check_literals(self, "schedule.")
        if self.warmup_steps < 0:
            raise ValueError(f"schedule.warmup_steps={self.warmup_steps}: must be 0 or more")
        for name in ("final_fraction", "end_step"):
            if self.kind not in _DEFAULT_FINAL and getattr(self, name) is not None:
                raise ValueError(
                    f"schedule.{name}={getattr(self, name)}: a {self.kind} schedule has no end; "
                    f"leave it unset, or choose schedule.kind linear, cosine or wsd"
                )
        for name in ("decay_fraction", "decay_shape"):
            if self.kind != "wsd" and getattr(self, name) is not None:
                raise ValueError(
                    f"schedule.{name}={getattr(self, name)}: belongs to schedule.kind=wsd, not "
                    f"{self.kind}; leave it unset"
                )
        if self.final_fraction is not None and not 0 <= self.final_fraction <= 1:
            raise ValueError(f"schedule.final_fraction={self.final_fraction}: must be from 0 to 1")
        if self.decay_fraction is not None and not 0 < self.decay_fraction <= 1:
            raise ValueError(f"schedule.decay_fraction={self.decay_fraction}: must be above 0 and at most 1")


def build_schedule(config: ScheduleConfig, *, total_steps: int) -> Schedule:
    """Returns the multiplier of the learning rate as a pure, jittable function of the step.

    Args:
      config: the kind of schedule and its parameters.
      total_steps: updates in the whole run, numbered from 0.

    Returns:
      A function of the number of updates already done, a Python integer or an integer array of any
      shape, giving float32 multipliers of the same shape.

    Raises:
      ValueError: warm-up and decay do not fit before the end.
    """
    warmup = config.warmup_steps
    if config.kind in _DEFAULT_FINAL:
        after = _decay(config, config.end_step if config.end_step is not None else total_steps)
    elif config.kind == "inverse_sqrt":

        def after(step: jax.Array) -> jax.Array:
            return jnp.sqrt((warmup + 1) / jnp.maximum(step + 1, warmup + 1))
    else:
        after = jnp.ones_like

    def multiplier(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step).astype(jnp.float32)
        return jnp.where(step < warmup, (step + 1) / (warmup + 1), after(step))

    return multiplier


def _decay(config: ScheduleConfig, end: int) -> Callable[[jax.Array], jax.Array]:
    """Returns the part after the warm-up of a schedule that decays to an end."""
    start = config.warmup_steps
    shape: str = config.kind
    if config.kind == "wsd":
        fraction = 0.1 if config.decay_fraction is None else config.decay_fraction
        start, shape = end - max(1, round(fraction * end)), config.decay_shape or "linear"
    if not config.warmup_steps <= start < end:
        raise ValueError(
            f"schedule.warmup_steps={config.warmup_steps}: the decay ends at step {end} and needs steps "
            f"{start} to {end}, after the warm-up; lower warmup_steps"
            + (" or decay_fraction" if config.kind == "wsd" else "")
            + ", or train longer"
        )
    final = _DEFAULT_FINAL[config.kind] if config.final_fraction is None else config.final_fraction
    fall = {
        "linear": lambda done: 1 - done,
        "sqrt": lambda done: 1 - jnp.sqrt(done),
        "cosine": lambda done: (1 + jnp.cos(jnp.pi * done)) / 2,
    }[shape]

    def after(step: jax.Array) -> jax.Array:
        return final + (1 - final) * fall(jnp.clip((step - start) / (end - start), 0, 1))

    return after
