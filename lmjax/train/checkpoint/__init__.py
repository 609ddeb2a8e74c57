"""Checkpoints of a run: written in the background, checked on the way back.

A step is a folder ``N`` of named arrays: ``params``, ``ema`` (when there is an average) and
``training`` (step, optimizer state, key), apart so that sampling reads no moments; ``contents`` lists
them and holds the caller's data. Orbax writes it under another name and renames it when it is whole;
a kill at any moment leaves only whole steps. It does not notice a flipped bit on the way back, so
each step also gets a ``SHA256SUMS``.

A step that cannot be trusted (its sums do not hold, a file is missing or not listed, a value is not
finite) is renamed ``N.corrupt`` and the one before it loaded. A step killed between its rename and
its sums is loaded with a note, and gets its sums then.
"""

from lmjax.train.checkpoint.checkpoints import Checkpoints
from lmjax.train.checkpoint.config import CheckpointConfig
from lmjax.train.checkpoint.errors import CheckpointError, NonFiniteState

__all__ = ["CheckpointConfig", "CheckpointError", "Checkpoints", "NonFiniteState"]
