"""How one array of theirs holds one or more of ours; each layout is its own inverse's definition."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

Shape = tuple[int, ...]


class Layout(Protocol):
    """A bijection between some arrays of ours and one of theirs, both ways without arithmetic."""

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """The shape of their array, from those of ours."""

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Their array."""

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Ours, of these shapes."""


@dataclasses.dataclass(frozen=True)
class Flat:
    """The same numbers in the same order; ``dimensions`` says how many theirs has (ours may have more)."""

    dimensions: int = 1

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """The leading ``dimensions - 1`` sizes, and the product of the rest."""
        (shape,) = ours
        kept = self.dimensions - 1
        return (*shape[:kept], math.prod(shape[kept:]))

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Reshaped."""
        return ours[0].reshape(self.shape([ours[0].shape]))

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Reshaped."""
        return [theirs.reshape(shapes[0])]


@dataclasses.dataclass(frozen=True)
class Linear:
    """``torch.nn.Linear``: theirs [out, in] of ours [in..., out...] with ``inputs`` contracted axes."""

    inputs: int = 1

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """[product of the outer axes, product of the contracted ones]."""
        (shape,) = ours
        return math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs])

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Flattened and transposed."""
        (array,) = ours
        return array.reshape(self.shape([array.shape])[::-1]).T

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Transposed and split into axes."""
        return [theirs.T.reshape(shapes[0])]


@dataclasses.dataclass(frozen=True)
class Untransposed:
    """GPT-2's ``Conv1D``: theirs [in, out] of ours [in..., out...]."""

    inputs: int = 1

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """[product of the contracted axes, product of the outer ones]."""
        return Linear(self.inputs).shape(ours)[::-1]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Flattened."""
        return ours[0].reshape(self.shape([ours[0].shape]))

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Split into axes."""
        return [theirs.reshape(shapes[0])]


@dataclasses.dataclass(frozen=True)
class Joined:
    """Several of ours, each in ``part``'s layout, one after the other along ``axis`` of theirs."""

    part: Layout
    axis: int = 0

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """The parts' sizes along ``axis`` added."""
        shapes = [self.part.shape([shape]) for shape in ours]
        total = sum(shape[self.axis] for shape in shapes)
        return (*shapes[0][: self.axis], total, *shapes[0][self.axis + 1 :])

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Concatenated."""
        return np.concatenate([self.part.to_theirs([array]) for array in ours], self.axis)

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Cut."""
        sizes = [self.part.shape([shape])[self.axis] for shape in shapes]
        parts = np.split(theirs, np.cumsum(sizes)[:-1], self.axis)
        return [self.part.to_ours(part, [shape])[0] for part, shape in zip(parts, shapes, strict=True)]


@dataclasses.dataclass(frozen=True)
class Interleaved:
    """GPT-NeoX's fused projection: ours [..., N, H] each, head by head in theirs ([..., N, parts, H], flattened).

    ``inputs`` axes come first and are contracted; 0 for biases.
    """

    inputs: int = 1

    def _joined(self, shape: Shape, parts: int) -> Shape:
        return (*shape[:-1], parts, shape[-1])

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """As :class:`Linear`, or [out] for a bias."""
        joined = self._joined(ours[0], len(ours))
        return Linear(self.inputs).shape([joined]) if self.inputs else (math.prod(joined),)

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Stacked between heads and head width."""
        stacked = np.stack(ours, axis=-2)
        return Linear(self.inputs).to_theirs([stacked]) if self.inputs else stacked.reshape(-1)

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Taken apart."""
        joined = self._joined(shapes[0], len(shapes))
        whole = Linear(self.inputs).to_ours(theirs, [joined])[0] if self.inputs else theirs.reshape(joined)
        return [whole[..., part, :] for part in range(len(shapes))]


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """Several of ours [in, ..., H_i] joined along their last axis, as a ``torch.nn.Linear``.

    ``pairs``: the last of them turns with the position, and its dimensions that turn together are neighbours there;
    ours has all first ones before all second ones.
    """

    pairs: bool = False

    def _joined(self, shapes: Sequence[Shape]) -> Shape:
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """As :class:`Linear`, of the joined array."""
        return Linear().shape([self._joined(ours)])

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Joined."""
        *others, last = ours
        if self.pairs:
            last = Alternating().to_theirs(np.split(last, 2, axis=-1))
        return Linear().to_theirs([np.concatenate([*others, last], axis=-1)])

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Cut."""
        (whole,) = Linear().to_ours(theirs, [self._joined(shapes)])
        *others, last = np.split(whole, np.cumsum([shape[-1] for shape in shapes])[:-1], axis=-1)
        if self.pairs:
            last = np.concatenate(Alternating().to_ours(last, ()), axis=-1)
        return [*others, last]


@dataclasses.dataclass(frozen=True)
class Alternating:
    """Two of ours [..., F] in alternate columns of theirs [..., 2 F]."""

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Twice the last size."""
        return (*ours[0][:-1], 2 * ours[0][-1])

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Stacked on a new last axis, which is then joined with the one before."""
        return np.stack(ours, axis=-1).reshape(self.shape([array.shape for array in ours]))

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Even columns, odd columns."""
        return [theirs[..., 0::2], theirs[..., 1::2]]


@dataclasses.dataclass(frozen=True)
class EveryExpert:
    """All experts of a layer in one tensor, each ``parts`` of ours in the layout ``each``; experts come first."""

    each: Layout
    parts: int = 1

    def _groups(self, items: Sequence) -> list[Sequence]:
        return [items[first : first + self.parts] for first in range(0, len(items), self.parts)]

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """[experts, those of one]."""
        groups = self._groups(ours)
        return (len(groups), *self.each.shape(groups[0]))

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Stacked."""
        return np.stack([self.each.to_theirs(group) for group in self._groups(ours)])

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Taken apart."""
        groups = zip(theirs, self._groups(shapes), strict=True)
        return [array for one, group in groups for array in self.each.to_ours(one, group)]


@dataclasses.dataclass(frozen=True)
class Taps:
    """A depthwise ``torch.nn.Conv1d``: theirs [channels, 1, taps] of ours [taps, channels...]."""

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """[product of the channel axes, 1, taps]."""
        (shape,) = ours
        return math.prod(shape[1:]), 1, shape[0]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Flattened and transposed."""
        (array,) = ours
        return array.reshape(len(array), -1).T[:, None, :]

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Transposed and split into axes."""
        return [theirs[:, 0, :].T.reshape(shapes[0])]


@dataclasses.dataclass(frozen=True)
class FirstRowsUnused:
    """A position table whose first ``rows`` rows stand for no position (RoBERTa, BART, OPT); written as zeros."""

    rows: int

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """``rows`` more than ours."""
        ((length, width),) = ours
        return length + self.rows, width

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Zeros, then ours."""
        return np.concatenate([np.zeros((self.rows, ours[0].shape[1]), ours[0].dtype), ours[0]])

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Without them."""
        return [theirs[self.rows :]]


@dataclasses.dataclass(frozen=True)
class Row:
    """A vector that is a matrix of one row there."""

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """[1, ours]."""
        return (1, *ours[0])

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """With the axis."""
        return ours[0][None]

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Without it."""
        return [theirs[0]]
