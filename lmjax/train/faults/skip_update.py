"""The policy to leave out the update of a faulty step."""

import dataclasses

from lmjax.train.faults.fault import StepFault
from lmjax.train.faults.policy import WatchfulPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkipUpdate(WatchfulPolicy):
    """Leaves the state as it was before a faulty step, and goes on with the next rows.

    The devices decide, so no step waits for the host. Parameters, averages, the optimizer's state and the number of
    updates, which random keys and schedules follow, are those of a run that never had the rows. The step is counted
    among ``train.steps`` and in the metric ``skipped_updates``. In a mixture by step, its part has had its turn.
    """

    limit: int = 10
    """Skipped updates in a row after which the run ends: then the state is at fault, not the rows."""

    def __post_init__(self):
        super().__post_init__()
        if self.limit < 1:
            raise ValueError(f"on_fault.limit={self.limit}: must be at least 1")

    def meet(self, fault: StepFault, *, in_a_row: int) -> None:
        """Raises the fault if too many steps in a row were faulty."""
        if in_a_row > self.limit:
            raise type(fault)(
                f"{fault}. So were the {in_a_row - 1} steps before it (on_fault.limit={self.limit}): the state is at "
                f"fault and not the rows: go back to an earlier checkpoint with a lower learning rate "
                f"(--on-fault RollBack goes back by itself)",
                step=fault.step,
                reason=fault.reason,
            )
