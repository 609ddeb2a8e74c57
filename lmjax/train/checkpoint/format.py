"""The format of the leaf names in a checkpoint, and how names of earlier versions are read.

The list of contents of every step holds the number of its ``format``. It is not in the run folder, because a step may
be read by itself (a run branches off it, or begins with it), and the steps of one run may have different formats.

====== ==============================================================================================================
format names of parameters (in ``params``, ``ema`` and the optimizer's moments alike)
====== ==============================================================================================================
1      ``embedding.table_VD``: those of the model and of what the objective adds are side by side; no number is written
2      ``model.embedding.table_VD``, and ``extras.reference.embedding.table_VD`` of what the objective adds
====== ==============================================================================================================
"""

from collections.abc import Collection, Mapping
from typing import Any

from lmjax.models.with_extras import EXTRAS, MODEL

FORMAT = 2

FORMER_ROOTS = {MODEL: ((), ("discriminator",), ("stack",)), EXTRAS: ((),)}
"""What format 1 has in the place of ``model`` and ``extras``: nothing, or the name some objectives gave the model."""


def format_of(contents: Mapping[str, Any]) -> int:
    """Returns the number of a step's format, given its list of contents.

    Raises:
      ValueError: a later version of lmjax wrote the step.
    """
    number = contents.get("format", 1)
    if not isinstance(number, int) or not 1 <= number <= FORMAT:
        raise ValueError(
            f"it has format {number} and this version of lmjax reads formats up to {FORMAT}: use the version of lmjax "
            f"that wrote it, or a later one"
        )
    return number


def saved_names(wanted: Collection[str], saved: Collection[str], *, number: int) -> dict[str, str]:
    """Returns, for each wanted leaf, the name under which it was saved.

    Args:
      wanted: the names in today's format.
      saved: all names in the step.
      number: the number of the step's format.
    """
    return {name: name if number == FORMAT else _former(name, saved) for name in wanted}


def _former(name: str, saved: Collection[str]) -> str:
    parts = name.split(".")
    place = next((place for place, part in enumerate(parts) if part in FORMER_ROOTS), None)
    if place is None:
        return name
    candidates = [".".join([*parts[:place], *root, *parts[place + 1 :]]) for root in FORMER_ROOTS[parts[place]]]
    return next((former for former in candidates if former in saved), candidates[0])
