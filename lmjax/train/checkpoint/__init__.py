"""The checkpoints of a run, which are written in the background and checked when they are read.

The checkpoint of step N is a folder ``N`` of named arrays in three parts: ``params``, ``ema`` (if there is an average)
and ``training`` (step, optimizer state, key). The parts are separate, so that sampling need not read the optimizer
state. ``contents`` lists the arrays and holds the caller's data. Orbax writes the folder under another name and renames
it when it is complete, so a kill at any moment leaves only complete steps. Orbax does not notice a flipped bit when it
reads, so each step also gets a file ``SHA256SUMS``.

A step cannot be trusted if a checksum is wrong, a file is missing or not listed, or a value is not finite. It is then
renamed ``N.corrupt``, and the step before it is loaded. If a run was killed after the rename of a step and before its
checksums were written, the step is loaded with a note, and its checksums are written then.
"""

from lmjax.train.checkpoint.checkpoints import Checkpoints
from lmjax.train.checkpoint.config import CheckpointConfig
from lmjax.train.checkpoint.errors import CheckpointError, NonFiniteState

__all__ = ["CheckpointConfig", "CheckpointError", "Checkpoints", "NonFiniteState"]
