"""The state that a run needs in order to go on: step, parameters, optimizer state, average and key."""

import dataclasses
from typing import Any

import jax

from lmjax.models.parameters import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """The training state.

    Attributes:
      step: int32 scalar, the number of updates done.
      params: the float32 parameters.
      opt_state: the state of the optimizer.
      ema: the average of the parameters (the run's moving average, or the optimizer's own), or None if there is none.
      key: the PRNG key of the run, which stays the same; each step folds its number into it.
      carry: what objectives keep from the rows of one step for the rows of the next, or None.
      watch: the last good steps, if the run judges steps by them, see :mod:`lmjax.train.faults.watch`.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    ema: Params | None
    key: jax.Array
    carry: Any = None
    watch: Any = None

    @property
    def averaged(self) -> Params:
        """The parameters to evaluate: their average if there is one, else the parameters themselves."""
        return self.params if self.ema is None else self.ema
