"""Everything a run must keep to go on: step, parameters, optimizer state, averages, key."""

import dataclasses
from typing import Any

import jax

from lmjax.models.parameters import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """The training state; what varies from step to step and nothing else.

    Attributes:
      step: int32 scalar, updates done.
      params: float32 parameters.
      opt_state: the optimizer's.
      ema: average of the parameters, the run's moving one or the optimizer's own, or None when there is none.
      key: PRNG key of the run, constant; a step folds its number into it.
      carry: what objectives keep of a step's rows for the next step's, or None.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    ema: Params | None
    key: jax.Array
    carry: Any = None

    @property
    def averaged(self) -> Params:
        """The parameters to evaluate: their moving average where the run keeps one."""
        return self.params if self.ema is None else self.ema
