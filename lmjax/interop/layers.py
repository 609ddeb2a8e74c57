"""Views of the parameters by layer: ``stacks.000.attention.query.weight`` [L, ...] as ``layers.5.attention...`` [...].

A model may stack its layers in several ways (scanned or not, in groups of a repeating pattern, with layers before
and after), and it stacks its experts. The tables of :mod:`lmjax.interop.families` need not know this: they name
layers and experts by number.
"""

import re
from typing import Any

import numpy as np

from lmjax.models.parameters import Params, named_leaves

_EXPERTS = re.compile(r"(?P<experts>.+\.experts)\.(?P<rest>(up|gate|down)\.(weight|bias))")
_STACKED = re.compile(r"(?P<stack>(?:.+\.)?)(?P<place>lead|stacks|tail)\.(?P<member>\d+)\.(?P<rest>.+)")


def by_layer(tree: Params) -> dict[str, np.ndarray]:
    """Returns views of numpy parameters by name, one for each parameter of each layer, named ``layers.N.rest``.

    Parameters of experts are split further, one view an expert, named ``layers.N.experts.E.rest``. Writing to a view
    writes to the parameters.
    """
    flat = named_leaves(tree)
    matches = {name: match for name in flat if (match := _STACKED.fullmatch(name))}
    first = {stack: _first_layers(stack, matches, flat) for stack in {match["stack"] for match in matches.values()}}
    layered = {}
    for name, leaf in flat.items():
        if name not in matches:
            layered[name] = leaf
            continue
        stack, place, rest = matches[name]["stack"], matches[name]["place"], matches[name]["rest"]
        layer = first[stack][place] + int(matches[name]["member"])
        period = first[stack]["period"]
        for group, array in enumerate(leaf if place == "stacks" else [leaf]):
            layered[f"{stack}layers.{layer + group * period}.{rest}"] = array
    return {name: array for whole, leaf in layered.items() for name, array in _by_expert(whole, leaf)}


def _first_layers(stack: str, matches: dict[str, re.Match], flat: dict[str, Any]) -> dict[str, int]:
    """Returns the number of the first layer of ``lead``, ``stacks`` and ``tail``.

    The entry ``period`` is the number of layers after which the pattern in ``stacks`` repeats.
    """
    members = {"lead": 0, "stacks": 0, "tail": 0}
    groups = 0
    for name, match in matches.items():
        if match["stack"] == stack:
            members[match["place"]] = max(members[match["place"]], int(match["member"]) + 1)
            groups = len(flat[name]) if match["place"] == "stacks" else groups
    period = members["stacks"]
    return {"lead": 0, "stacks": members["lead"], "tail": members["lead"] + groups * period, "period": period}


def _by_expert(name: str, leaf: np.ndarray) -> list[tuple[str, np.ndarray]]:
    match = _EXPERTS.fullmatch(name)
    if match is None:
        return [(name, leaf)]
    return [(f"{match['experts']}.{expert}.{match['rest']}", leaf[expert]) for expert in range(len(leaf))]
