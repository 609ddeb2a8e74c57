"""Tables between their tensor names and our parameters, read in either direction.

A table is a list of :class:`Rule`; ``{}`` in its names stands for the layer, ``{expert}`` for an expert, and
``{experts}``, in ours, for every expert of the layer in turn.
A rule whose parameters the model does not have (biases it was built without, an untied head) does not
apply. Where several rules name one parameter, all of their tensors are written, and of those that are there the last
is read. Import and export walk the same rules, so a round trip is bit-equal by construction.
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
    """One tensor of theirs and what of ours it holds.

    Attributes:
      theirs: its name.
      ours: dotted paths of the parameters, by layer (:func:`lmjax.interop.layers.by_layer`).
      layout: how it holds them.
    """

    theirs: str
    ours: tuple[str, ...]
    layout: Layout

    def at(self, place: Mapping[str, int]) -> "Rule":
        """The rule with these numbers filled in."""

        def filled(name: str) -> str:
            for mark, number in place.items():
                name = name.replace(mark, str(number))
            return name

        return Rule(filled(self.theirs), tuple(map(filled, self.ours)), self.layout)

    def over_experts(self, number: int) -> "Rule":
        """The rule with the parameters of so many experts, one expert after the other, if it is over them."""
        if _EXPERTS not in self.ours[0]:
            return self
        ours = (name.replace(_EXPERTS, str(expert)) for expert in range(number) for name in self.ours)
        return Rule(self.theirs, tuple(ours), self.layout)


def same(theirs: str, ours: str, *, dimensions: int = 2) -> Rule:
    """A tensor that is ours as it stands, of so many dimensions."""
    return Rule(theirs, (ours,), Flat(dimensions))


def linear(theirs: str, ours: str, *, inputs: int = 1) -> tuple[Rule, Rule]:
    """A ``torch.nn.Linear`` (``theirs.weight``, ``theirs.bias``) and a projection of ours."""
    return (
        Rule(f"{theirs}.weight", (f"{ours}.weight",), Linear(inputs)),
        Rule(f"{theirs}.bias", (f"{ours}.bias",), Flat()),
    )


def norm(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """A norm's scale and bias."""
    return (
        Rule(f"{theirs}.weight", (f"{ours}.scale",), Flat()),
        Rule(f"{theirs}.bias", (f"{ours}.bias",), Flat()),
    )


HEAD = Rule("lm_head.weight", ("head_weight_DV",), Linear())
"""An output map of its own."""


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
    """Their tensors as our parameters.

    Args:
      rules: the table.
      tensors: their tensors, each looked up once.
      shapes: our parameters as ``ShapeDtypeStruct``.
      where: the folder, for messages.
      aliases: see :class:`lmjax.interop.family.Family`.
      buffers: see there.
      unused: see there.
      head: see there.

    Returns:
      float32 numpy arrays in the structure of ``shapes``, and the names in ``head`` that are not among them, because
      no tensor of the head is there.

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
    """The names in ``head`` of parameters the model has, unless a tensor of one of them is there."""
    names = [name for name in shapes if name in head]
    of_head = [rule.theirs for rule in rules if any(ours.split(".")[0] in names for ours in rule.ours)]
    return [] if any(theirs in tensors for theirs in of_head) else names


def exported_tensors(
    rules: Sequence[Rule], params: Params, *, where: str, unused: Mapping[str, float]
) -> dict[str, tuple[Layout, list[np.ndarray]]]:
    """For each of their tensors its layout and the parameters that go into it, in the table's order.

    Raises:
      ValueError: a parameter has no place in the table.
    """
    places = {name: value for name, value in by_layer(params).items() if name not in unused}
    applicable = applicable_rules(rules, places)
    _check_filled(places, applicable, where)
    return {rule.theirs: (rule.layout, [places[name] for name in rule.ours]) for rule in applicable}


def applicable_rules(rules: Sequence[Rule], places: Mapping[str, np.ndarray]) -> list[Rule]:
    """The rules whose parameters are all there, with layers and experts filled in."""
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
