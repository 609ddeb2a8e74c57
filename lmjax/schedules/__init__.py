"""Scalars that change during training: decays, ramps of an objective's fields, learning rates."""

from lmjax.schedules.learning_rate import ScheduleConfig
from lmjax.schedules.ramp import Ramp

__all__ = ["Ramp", "ScheduleConfig"]
