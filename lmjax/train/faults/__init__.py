"""What a run does about a faulty step: it stops, skips the update, or rolls back. Each policy has one file."""

from lmjax.train.faults.fault import LossSpike, NonFiniteLoss, StepFault, check_finite
from lmjax.train.faults.policy import FaultPolicy, WatchfulPolicy
from lmjax.train.faults.roll_back import RollBack
from lmjax.train.faults.skip_update import SkipUpdate
from lmjax.train.faults.stop import Stop

__all__ = [
    "FaultPolicy",
    "LossSpike",
    "NonFiniteLoss",
    "RollBack",
    "SkipUpdate",
    "StepFault",
    "Stop",
    "WatchfulPolicy",
    "check_finite",
]
