"""Tables between the tensor names of transformers and our parameters, used in both directions.

A table is a list of :class:`Rule`. In its names ``{}`` stands for the layer and ``{expert}`` for an expert;
``{experts}``, only in our names, stands for every expert of the layer in turn.
A rule does not apply if the model does not have its parameters (biases it was built without, an untied head).
Where several rules name one parameter, an export writes all of their tensors, and an import takes the last of those
that are there. Import and export use the same rules, so a round trip is bit-equal by construction.
"""

import dataclasses
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import jax
import numpy as np

from lmjax.interop.layers import by_layer
from lmjax.interop.layouts import Flat, Layout, Linear
from lmjax.models.parameters import Params

_LAYER, _EXPERT, _EXPERTS = "{}", "{expert}", "{experts}"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One tensor of theirs, and the parameters of ours that it holds.

    Attributes:
      theirs: the name of the tensor.
      ours: dotted paths of the parameters, by layer (:func:`lmjax.interop.layers.by_layer`).
      layout: how the tensor holds the parameters.
    """

    theirs: str
    ours: tuple[str, ...]
    layout: Layout

    def at(self, place: Mapping[str, int]) -> "Rule":
        """Returns the rule with the marks ``{}`` and ``{expert}`` replaced by the numbers in ``place``."""

        def filled(name: str) -> str:
            for mark, number in place.items():
                name = name.replace(mark, str(number))
            return name

        return Rule(filled(self.theirs), tuple(map(filled, self.ours)), self.layout)

    def over_experts(self, number: int) -> "Rule":
        """Returns the rule with ``{experts}`` replaced by each of ``number`` experts in turn.

        A rule without ``{experts}`` is returned unchanged.
        """
        if _EXPERTS not in self.ours[0]:
            return self
        ours = (name.replace(_EXPERTS, str(expert)) for expert in range(number) for name in self.ours)
        return Rule(self.theirs, tuple(ours), self.layout)


def same(theirs: str, ours: str, *, dimensions: int = 2) -> Rule:
    """Returns the rule of a tensor that equals our parameter; their tensor has ``dimensions`` axes."""
    return Rule(theirs, (ours,), Flat(dimensions))


def linear(theirs: str, ours: str, *, inputs: int = 1) -> tuple[Rule, Rule]:
    """Returns the rules of a ``torch.nn.Linear`` (``theirs.weight``, ``theirs.bias``) and a projection of ours."""
    return (
        Rule(f"{theirs}.weight", (f"{ours}.weight",), Linear(inputs)),
        Rule(f"{theirs}.bias", (f"{ours}.bias",), Flat()),
    )


def norm(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """Returns the rules of a norm's scale and bias."""
    return (
        Rule(f"{theirs}.weight", (f"{ours}.scale",), Flat()),
        Rule(f"{theirs}.bias", (f"{ours}.bias",), Flat()),
    )


HEAD = Rule("lm_head.weight", ("head_weight_DV",), Linear())
"""The rule of an output map that is not tied to the token table."""


def import_parameters(
    rules: Sequence[Rule],
    tensors: Mapping[str, np.ndarray],
    shapes: Params,
    *,
    where: str,
    aliases: Mapping[str, str],
    buffers: str,
    unused: Mapping[str, float],
    head: Collection[str] = (),
) -> tuple[Params, list[str]]:
    """Returns their tensors as our parameters.

    Args:
      rules: the table.
      tensors: their tensors; each is looked up once.
      shapes: our parameters as ``ShapeDtypeStruct``.
      where: the folder, for messages.
      aliases: see :class:`lmjax.interop.family.Family`.
      buffers: see there.
      unused: see there.
      head: see there.

    Returns:
      float32 numpy arrays in the structure of ``shapes``, and the names in ``head`` that the arrays do not include
      because the folder has no tensor of the head.

    Raises:
      ValueError: a tensor is missing, of another shape, or left over.
    """
    absent = _absent_head(rules, tensors, shapes, head)
    shapes = {name: part for name, part in shapes.items() if name not in absent}
    params = jax.tree.map(lambda leaf: np.empty(leaf.shape, np.float32), shapes)
    places = by_layer(params)
    for name, constant in unused.items():
        places.pop(name)[...] = constant
    applicable = applicable_rules(rules, places)
    _check_filled(places, applicable, where)
    stored = {rule.ours for rule in applicable if rule.theirs in tensors}
    for rule in applicable:
        if rule.theirs not in tensors:
            if rule.ours in stored:
                continue
            raise ValueError(f"{where}: tensor {rule.theirs!r} is missing, and its config.json asks for it")
        wanted = [places[name].shape for name in rule.ours]
        theirs, expected = tensors[rule.theirs], rule.layout.shape(wanted)
        if theirs.shape != expected:
            raise ValueError(
                f"{where}: tensor {rule.theirs!r} is {list(theirs.shape)}, "
                f"and its config.json asks for {list(expected)}"
            )
        for name, value in zip(rule.ours, rule.layout.to_ours(theirs, wanted), strict=True):
            places[name][...] = value
    used = {rule.theirs for rule in applicable}
    left = sorted(name for name in tensors if name not in used and not (buffers and re.fullmatch(buffers, name)))
    for name in [name for name in left if aliases.get(name) in used]:
        if not np.array_equal(tensors[name], tensors[aliases[name]]):
            raise ValueError(
                f"{where}: tensor {name!r} differs from {aliases[name]!r}, to which config.json ties it: "
                f"set tie_word_embeddings to false there, or remove the tensor"
            )
        left.remove(name)
    if left:
        raise ValueError(
            f"{where}: {len(left)} tensors belong to no part of the model its config.json describes: "
            f"{', '.join(left[:3])}{' ...' if len(left) > 3 else ''}"
        )
    return params, absent


def _absent_head(
    rules: Sequence[Rule], tensors: Mapping[str, np.ndarray], shapes: Params, head: Collection[str]
) -> list[str]:
    """Returns the names in ``head`` of parameters the model has; none if any tensor of the head is there."""
    names = [name for name in shapes if name in head]
    of_head = [rule.theirs for rule in rules if any(ours.split(".")[0] in names for ours in rule.ours)]
    return [] if any(theirs in tensors for theirs in of_head) else names


def exported_tensors(
    rules: Sequence[Rule], params: Params, *, where: str, unused: Mapping[str, float]
) -> dict[str, tuple[Layout, list[np.ndarray]]]:
    """Returns, by the name of each of their tensors, its layout and the parameters it holds, in the table's order.

    Raises:
      ValueError: a parameter has no place in the table.
    """
    places = {name: value for name, value in by_layer(params).items() if name not in unused}
    applicable = applicable_rules(rules, places)
    _check_filled(places, applicable, where)
    return {rule.theirs: (rule.layout, [places[name] for name in rule.ours]) for rule in applicable}


def applicable_rules(rules: Sequence[Rule], places: Mapping[str, np.ndarray]) -> list[Rule]:
    """Returns the rules whose parameters are all in ``places``, with numbers of layers and experts filled in."""
    counts = {_LAYER: _count(r"(?:^|\.)layers\.(\d+)\.", places), _EXPERT: _count(r"\.experts\.(\d+)\.", places)}
    expanded = []
    for rule in rules:
        marks = [mark for mark in counts if mark in rule.ours[0]]
        for numbers in itertools.product(*(range(counts[mark]) for mark in marks)):
            expanded.append(rule.at(dict(zip(marks, numbers, strict=True))).over_experts(counts[_EXPERT]))
    return [rule for rule in expanded if all(name in places for name in rule.ours)]


def _count(pattern: str, names: Iterable[str]) -> int:
    return max((int(match[1]) for name in names if (match := re.search(pattern, name))), default=-1) + 1


def _check_filled(places: Mapping[str, np.ndarray], rules: Sequence[Rule], where: str) -> None:
    filled = {name for rule in rules for name in rule.ours}
    if empty := [name for name in places if name not in filled]:
        raise ValueError(f"{where}: the model's parameter {empty[0]} ({len(empty)} in all) has no counterpart there")
