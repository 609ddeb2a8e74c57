"""What the devices send each other: how much, along which axes of the mesh, how often, and for how long.

The time of a collective is that of a ring algorithm on the links of the torus it can use (Thakur et al. 2005;
"How to Scale Your Model", Austin et al. 2025, chapter 3), over links at :data:`topology.LINK_EFFICIENCY` of their
published bandwidth, and without latency. Of a permutation, every message goes along one axis of the torus after the
other, the shorter way, and the link that most of them go over decides.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from lmjax.compile.hlo import Instruction, Program, num_bytes
from lmjax.compile.replica_groups import axes_of, groups_of
from lmjax.compile.topology import LINK_EFFICIENCY, Topology
from lmjax.compile.uses import Use, inside, uses

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
_CHANNEL = re.compile(r"channel_id=(\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One collective operation of the program.

    Attributes:
      kind: one of :data:`KINDS`.
      use: the instruction that begins it.
      last_index: place in its computation of the instruction that waits for it; its own where it blocks.
      num_bytes: of the whole array on a device: what an all-gather makes, what a reduction or a permutation reads.
      axes: of the mesh.
      groups: numbers of the devices that it joins, by group; of a permutation, source and target of each message.
      times: how often it runs in a step.
      text: attributes of the operation itself.
    """

    kind: str
    use: Use
    last_index: int
    num_bytes: int
    axes: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    times: int
    text: str

    @property
    def blocks(self) -> bool:
        """Whether nothing else runs beside it."""
        return self.last_index == self.use.index


def find_collectives(program: Program, mesh: dict[str, int]) -> list[Collective]:
    """Returns every collective of a program, in the order in which they begin.

    Args:
      program: the program.
      mesh: sizes of the axes the devices are arranged in, in order.
    """
    num_devices = int(np.prod(list(mesh.values())))
    found: dict[tuple[str, str], Collective] = {}
    starts: dict[tuple[str, str], tuple[str, str]] = {}
    for use in uses(program):
        one = use.instruction
        if one.opcode.endswith("-done") and one.operands:
            key = starts.get((use.computation, one.operands[0]))
            if key is not None:
                found[key] = dataclasses.replace(found[key], last_index=use.index)
            continue
        for kind, inner, where in _operations(program, use):
            # The parts of one collective in several fusions share its channel; so do all collectives of a shard_map.
            channel = None if inner is one else _CHANNEL.search(inner.text)
            key = (use.computation, channel[1] if channel else one.name)
            if key in found:
                # The same one goes on beside other work, or is waited for.
                found[key] = dataclasses.replace(found[key], last_index=max(use.index, found[key].last_index))
                continue
            groups = groups_of(inner.text, num_devices)
            if groups.shape[1] < 2:
                continue
            shapes = {other.name: other.shape for other in program.computations[where]}
            read = sum(num_bytes(shapes.get(name, "")) for name in inner.operands)
            found[key] = Collective(
                kind=kind,
                use=use,
                last_index=use.index,
                num_bytes=read * groups.shape[1] if kind == "all-gather" else read,
                axes=_axes(kind, groups, mesh),
                groups=tuple(map(tuple, groups.tolist())),
                times=use.times,
                text=inner.text,
            )
            starts[use.computation, one.name] = key
    return list(found.values())


def _axes(kind: str, groups: np.ndarray, mesh: dict[str, int]) -> tuple[str, ...]:
    """Returns the axes of the mesh that a collective goes along; a message of a permutation may stay where it is."""
    if kind != "collective-permute":
        return axes_of(groups[0], mesh)
    found = {axis for pair in groups for axis in axes_of(pair, mesh)}
    return tuple(axis for axis in mesh if axis in found)


def _operations(program: Program, use: Use) -> Iterator[tuple[str, Instruction, str]]:
    """Returns the collective that an instruction is, or those in its fusion, with the computation they stand in."""
    one = use.instruction
    if kind := _kind(one):
        yield kind, one, use.computation
    elif one.opcode == "fusion":
        body = one.calls("calls") or ""
        for inner in inside(program, body):
            if kind := _kind(inner):
                scatters = kind == "all-reduce" and "scatter" in f"{body} {one.name}"
                where = body if inner in program.computations.get(body, ()) else _home(program, inner)
                yield "reduce-scatter" if scatters else kind, inner, where


def _kind(one: Instruction) -> str | None:
    name = one.opcode.removesuffix("-start")
    return name if name in KINDS else None


def _home(program: Program, inner: Instruction) -> str:
    return next(name for name, lines in program.computations.items() if inner in lines)


def seconds(one: Collective, topology: Topology, devices: np.ndarray) -> float:
    """Returns the time of a collective, once, on links that nothing else uses.

    A group whose devices lie along several axes of the torus uses the links of all of them; along an axis that is
    closed to a ring, both directions.

    Args:
      one: the collective.
      topology: the chips.
      devices: in the order of the mesh, flat.
    """
    if one.kind == "collective-permute":
        return _permutation_seconds(one, topology, devices)
    members = [devices[number] for number in one.groups[0]]
    num_slices = len({getattr(member, "slice_index", None) for member in members})
    size = len(members) // num_slices
    within = 0.0
    if size > 1:
        bandwidth = topology.chip.link_bandwidth * LINK_EFFICIENCY
        axes = links_by_axis(members, topology)
        if one.kind.endswith("all-to-all"):
            # What a device sends goes a quarter of each ring on average, along all axes at once; the longest decides.
            passes = (size - 1) / size * max(along / 4 / links for along, links in axes)
        else:
            passes = _passes(one.kind, size) / sum(links for _, links in axes)
        within = passes * one.num_bytes / bandwidth
    # Between slices each chip exchanges the part of the array that is its own within the slice.
    between = _passes(one.kind, num_slices) * one.num_bytes / size / DATA_CENTER_BANDWIDTH if num_slices > 1 else 0.0
    return within + between


def _passes(kind: str, size: int) -> float:
    """Returns how often the whole array goes over the links of a device, of a ring of ``size``."""
    share = (size - 1) / size
    return {
        "all-gather": share,
        "reduce-scatter": share,
        "all-reduce": 2 * share,
        "all-to-all": size / 4 * share,
        "ragged-all-to-all": size / 4 * share,
    }[kind]


def _permutation_seconds(one: Collective, topology: Topology, devices: np.ndarray) -> float:
    """Returns the time of a permutation: of the messages over one link, or between slices, where that takes longer."""
    loads: collections.Counter[tuple] = collections.Counter()
    between = 0.0
    for source, target in ((devices[source], devices[target]) for source, target in one.groups):
        if getattr(source, "slice_index", None) != getattr(target, "slice_index", None):
            between = one.num_bytes / DATA_CENTER_BANDWIDTH
            continue
        place = list(source.coords)
        for axis, extent in enumerate(topology.extents):
            way = target.coords[axis] - place[axis]
            if topology.chip.wraps(extent):
                way = (way + extent // 2) % extent - extent // 2
            for _ in range(abs(way)):
                step = 1 if way > 0 else -1
                loads[getattr(source, "slice_index", None), *place, axis, step] += 1
                place[axis] = (place[axis] + step) % extent
    most = max(loads.values(), default=0)
    return max(most * one.num_bytes / (topology.chip.link_bandwidth * LINK_EFFICIENCY), between)


DATA_CENTER_BANDWIDTH = 6.25e9
"""Bytes a second of a chip between slices; assumed (v5p: 50 Gbit/s by its data sheet)."""


def links_by_axis(members: list, topology: Topology) -> list[tuple[int, int]]:
    """Returns how many devices lie along each axis of the torus that these devices lie along, and the links used there.

    An axis that is closed to a ring, and that they fill, has two links, any other one.
    """
    places = np.array([device.coords for device in members])
    found = []
    for axis, extent in enumerate(topology.extents):
        along = len(set(places[:, axis].tolist()))
        if along > 1:
            found.append((along, 2 if along == extent and topology.chip.wraps(extent) else 1))
    return found or [(len(members), 1)]
