"""The policy to end the run."""

import dataclasses
from typing import NoReturn

from lmjax.train.faults.fault import StepFault
from lmjax.train.faults.policy import FaultPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop(FaultPolicy):
    """Ends the run when a number is not finite. Its checkpoints stay; jumps of the loss are no faults."""

    def meet(self, fault: StepFault, *, in_a_row: int) -> NoReturn:
        """Raises the fault."""
        raise fault
