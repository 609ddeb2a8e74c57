"""Which devices a collective joins, as written in HLO, and along which axes of the mesh they lie."""

import math
import re
from collections.abc import Mapping

import numpy as np

_LISTED = re.compile(r"replica_groups=\{(\{[\d,{} ]*\})?\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{\{([\d,{} ]*)\}\}")


def groups_of(text: str, num_devices: int) -> np.ndarray:
    """Returns the groups of a collective, [groups, devices of a group]; for a permutation, its pairs.

    Args:
      text: attributes of the instruction.
      num_devices: how many the program runs on; all of them are one group where none are named.

    Raises:
      ValueError: they are written in a way that is not known.
    """
    if pairs := _PAIRS.search(text):
        return _listed(pairs[1])
    if iota := _IOTA.search(text):
        return _iota(iota[2], iota[3]).reshape(_numbers(iota[1]))
    if mesh := _MESH.search(text):
        return _of_mesh(*mesh.groups())
    if listed := _LISTED.search(text):
        return _listed(listed[1]) if listed[1] else np.arange(num_devices)[None]
    if "replica_groups=" in text:
        raise ValueError(f"replica groups written in an unknown way: {text[:200]}")
    return np.arange(num_devices)[None]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _listed(text: str) -> np.ndarray:
    return np.array([_numbers(group) for group in text.split("}") if _numbers(group)])


def _iota(sizes: str, order: str | None) -> np.ndarray:
    ids = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return ids.transpose(_numbers(order)) if order else ids


def _of_mesh(axes: str, sizes: str | None, order: str | None, joined: str) -> np.ndarray:
    """Of ``mesh['a'=4,'b'=2] {'a'}``: one group for each place along the axes that are not named last.

    An axis may be split, as ``'a':(2)4``: 4 ways of it, of which 2 come before.
    """
    extents = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    ids = _iota(sizes, order) if sizes else np.arange(math.prod(extents.values()))
    ids = ids.reshape(list(extents.values()))
    within = []
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", joined):
        place = list(extents).index(name)
        if not size:
            within.append(place)
            continue
        parts = [int(before), int(size), extents[name] // (int(before) * int(size))]
        ids = ids.reshape(*ids.shape[:place], *parts, *ids.shape[place + 1 :])
        names = list(extents.items())
        names[place : place + 1] = [(f"{name}/before", parts[0]), (name, parts[1]), (f"{name}/after", parts[2])]
        extents = dict(names)
        within = [other + 2 if other > place else other for other in within] + [place + 1]
    others = [axis for axis in range(ids.ndim) if axis not in within]
    size = math.prod(ids.shape[axis] for axis in within)
    return ids.transpose(*others, *within).reshape(-1, size)


def axes_of(group: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the axes of the mesh along which the devices of a group lie.

    Args:
      group: numbers of devices, in the order of the mesh.
      mesh: size of each axis, in order.
    """
    places = np.unravel_index(np.asarray(group), tuple(mesh.values()))
    return tuple(axis for axis, place in zip(mesh, places, strict=True) if len(set(place.tolist())) > 1)
