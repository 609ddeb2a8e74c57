"""Which part of the training step an instruction belongs to, by the Python lines that it came from."""

import re
from collections.abc import Sequence

from lmjax.compile.hlo import Frame

PARTS = (
    "attention kernels",
    "attention",
    "feed-forward kernels",
    "feed-forward",
    "recurrence",
    "norms and residuals",
    "embedding",
    "head and loss",
    "optimizer",
    "corruption",
    "choosing and placing tokens",
    "collectives",
    "other",
)

_RULES = (
    ("attention", r"/models/(attention|latent_attention|rope|relative)\.py$|/kernels/attention/", r""),
    ("feed-forward", r"/models/layers\.py$", r"^(FeedForward\.|activated)"),
    ("feed-forward", r"/models/(experts|routing)\.py$|/kernels/grouped(_tpu)?\.py$", r""),
    ("recurrence", r"/models/(mamba|recurrent|rwkv)\.py$|/kernels/recurrence\.py$", r""),
    ("embedding", r"/models/layers\.py$", r"^Embedding\."),
    ("norms and residuals", r"/models/layers\.py$", r"^(Norm\.|dropout)"),
    ("norms and residuals", r"/models/block\.py$", r""),
    ("other", r"/models/stack\.py$", r""),  # what the layers hand on, and what is kept of them for the backward pass
    ("embedding", r"/models/(token_stack|time_conditioned)\.py$", r"\.embed$"),
    ("head and loss", r"/lmjax/losses/|/models/head\.py$", r""),
    ("head and loss", r"/lmjax/(objectives|models)/", r"(\.terms|\.head_states|\.head|all_terms)$"),
    ("optimizer", r"/train/optimizer|/optax/|/lmjax/optimizers?/", r""),
    ("choosing and placing tokens", r"/decode/(sample|accept)\.py$|/decode/logits/|/corruption/gumbel\.py$", r""),
    ("corruption", r"/lmjax/corruption/", r""),
    ("corruption", r"/lmjax/objectives/", r"\.corrupt$"),
)
"""Part, file and function; the innermost frame that one of them fits decides."""


def part_of(stack: Sequence[Frame]) -> str:
    """Returns one of :data:`PARTS` for frames from the innermost outwards."""
    for frame in stack:
        for part, file, function in _RULES:
            if re.search(file, frame.file) and re.search(function, frame.function):
                return part
    return "other"


def source_of(stack: Sequence[Frame]) -> str:
    """Returns the innermost line of lmjax, as ``models/layers.py:120 FeedForward.__call__``, or of what there is."""
    own = next((frame for frame in stack if "/lmjax/" in frame.file), stack[0] if stack else None)
    if own is None:
        return ""
    return f"{own.file.rpartition('/lmjax/')[2]}:{own.line} {own.function.replace('<locals>.', '')}"
