"""The base classes of the policies: what a run does when a step is faulty."""

import abc
import dataclasses

from lmjax.choice import Choice
from lmjax.train.faults.fault import StepFault


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaultPolicy(Choice, abc.ABC, home="lmjax.train.faults"):
    """What a run does when a step is faulty: its loss or gradient is not finite, or jumps up."""

    @abc.abstractmethod
    def meet(self, fault: StepFault, *, in_a_row: int) -> None:
        """Returns if training simply goes on after a faulty step; otherwise raises the fault.

        Args:
          fault: what was found in the metrics of a step.
          in_a_row: the number of faulty steps without a good one between them, this one included.

        Raises:
          StepFault: the run has to stop, or to roll back.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchfulPolicy(FaultPolicy):
    """A policy that also takes a jump of the loss or of the gradient for a fault, and whose state no fault changes.

    A step is compared with the medians of the last good steps, which are part of the training state. The devices
    compare, and leave out the update of a faulty step, so that no step waits for the host. A median, unlike a mean,
    hardly moves when single steps jump.
    """

    loss_ratio: float | None = 2.0
    """A loss above this many times the median of the last good steps is a spike; None never is."""
    grad_norm_ratio: float | None = 10.0
    """The same for the norm of the gradient, before clipping."""
    window: int = 64
    """Good steps that the medians are of. Until there are so many, only numbers that are not finite are faults."""

    def __post_init__(self):
        for name in ("loss_ratio", "grad_norm_ratio"):
            value = getattr(self, name)
            if value is not None and value <= 1:
                raise ValueError(f"on_fault.{name}={value}: must be above 1, or None to switch it off")
        if self.window < 1:
            raise ValueError(f"on_fault.window={self.window}: must be at least 1")
