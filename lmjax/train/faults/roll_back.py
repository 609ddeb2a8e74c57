"""The policy to go back to a checkpoint and to pass over the rows of the faulty step."""

import dataclasses
from typing import NoReturn

from lmjax.train.faults.fault import StepFault
from lmjax.train.faults.policy import WatchfulPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class RollBack(WatchfulPolicy):
    """Goes back to the last checkpoint before the faulty rows, and trains on without ever reading these rows.

    ``record.json`` holds the rows that were passed over, so that a resumed run passes over them as well. Chowdhery et
    al. 2022 (PaLM, section 5.1) went back about 100 steps and passed over 200 to 500 batches.
    """

    before: int = 0
    """Batches before the faulty one that are passed over, too."""
    after: int = 0
    """Batches after the faulty one that are passed over, too."""
    limit: int = 10
    """Roll-backs of the whole run, after which a fault ends it."""

    def __post_init__(self):
        super().__post_init__()
        for name, least in (("before", 0), ("after", 0), ("limit", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"on_fault.{name}={getattr(self, name)}: must be at least {least}")

    def meet(self, fault: StepFault, *, in_a_row: int) -> NoReturn:
        """Raises the fault, which :mod:`lmjax.train.rolling_back` then answers."""
        raise fault
