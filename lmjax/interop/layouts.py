"""Layouts: how one array of transformers ("theirs") holds one or more arrays of lmjax ("ours").

Each layout defines both directions, and each direction undoes the other.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

Shape = tuple[int, ...]


class Layout(Protocol):
    """A bijection between some of our arrays and one of theirs: numbers are moved, never computed."""

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Returns the shape of their array, from the shapes of ours."""

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Returns their array, from ours."""

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Returns our arrays, which have these shapes, from theirs."""


@dataclasses.dataclass(frozen=True)
class Flat:
    """The same numbers in the same order. ``dimensions`` is the number of axes of theirs; ours may have more."""

    dimensions: int = 1

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Returns the leading ``dimensions - 1`` sizes, followed by the product of the rest."""
        (shape,) = ours
        kept = self.dimensions - 1
        return (*shape[:kept], math.prod(shape[kept:]))

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Reshapes the array."""
        return ours[0].reshape(self.shape([ours[0].shape]))

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Reshapes the array."""
        return [theirs.reshape(shapes[0])]


@dataclasses.dataclass(frozen=True)
class Linear:
    """``torch.nn.Linear``: theirs is [out, in], ours is [in..., out...] with ``inputs`` contracted axes first."""

    inputs: int = 1

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Returns [product of the output axes, product of the contracted axes]."""
        (shape,) = ours
        return math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs])

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Flattens and transposes the array."""
        (array,) = ours
        return array.reshape(self.shape([array.shape])[::-1]).T

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Transposes the array and splits it into axes."""
        return [theirs.T.reshape(shapes[0])]


@dataclasses.dataclass(frozen=True)
class Untransposed:
    """GPT-2's ``Conv1D``: theirs is [in, out], ours is [in..., out...]."""

    inputs: int = 1

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Returns [product of the contracted axes, product of the output axes]."""
        return Linear(self.inputs).shape(ours)[::-1]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Flattens the array."""
        return ours[0].reshape(self.shape([ours[0].shape]))

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Splits the array into axes."""
        return [theirs.reshape(shapes[0])]


@dataclasses.dataclass(frozen=True)
class Joined:
    """Several of our arrays, each in the layout ``part``, one after the other along ``axis`` of theirs."""

    part: Layout
    axis: int = 0

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Returns the shape of a part with the sum of the parts' sizes along ``axis``."""
        shapes = [self.part.shape([shape]) for shape in ours]
        total = sum(shape[self.axis] for shape in shapes)
        return (*shapes[0][: self.axis], total, *shapes[0][self.axis + 1 :])

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Concatenates the arrays."""
        return np.concatenate([self.part.to_theirs([array]) for array in ours], self.axis)

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Cuts the array into the parts."""
        sizes = [self.part.shape([shape])[self.axis] for shape in shapes]
        parts = np.split(theirs, np.cumsum(sizes)[:-1], self.axis)
        return [self.part.to_ours(part, [shape])[0] for part, shape in zip(parts, shapes, strict=True)]


@dataclasses.dataclass(frozen=True)
class Interleaved:
    """GPT-NeoX's fused projection: ours are [..., N, H] each; theirs is [..., N, parts, H], head by head, flattened.

    ``inputs`` is the number of contracted axes, which come first; it is 0 for biases.
    """

    inputs: int = 1

    def _joined(self, shape: Shape, parts: int) -> Shape:
        return (*shape[:-1], parts, shape[-1])

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Returns the shape that :class:`Linear` gives, or [out] for a bias."""
        joined = self._joined(ours[0], len(ours))
        return Linear(self.inputs).shape([joined]) if self.inputs else (math.prod(joined),)

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Stacks the arrays on a new axis between heads and head width."""
        stacked = np.stack(ours, axis=-2)
        return Linear(self.inputs).to_theirs([stacked]) if self.inputs else stacked.reshape(-1)

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Takes the array apart."""
        joined = self._joined(shapes[0], len(shapes))
        whole = Linear(self.inputs).to_ours(theirs, [joined])[0] if self.inputs else theirs.reshape(joined)
        return [whole[..., part, :] for part in range(len(shapes))]


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """Several of our arrays [in, ..., H_i], joined along their last axis and stored as a ``torch.nn.Linear``.

    ``pairs`` says that the last array has rotary positions and that, in theirs, the two dimensions that are rotated
    together are neighbours. Ours has the first dimensions of all pairs before the second ones.
    """

    pairs: bool = False

    def _joined(self, shapes: Sequence[Shape]) -> Shape:
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Returns the shape that :class:`Linear` gives for the joined array."""
        return Linear().shape([self._joined(ours)])

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Joins the arrays."""
        *others, last = ours
        if self.pairs:
            last = Alternating().to_theirs(np.split(last, 2, axis=-1))
        return Linear().to_theirs([np.concatenate([*others, last], axis=-1)])

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Cuts the array into the parts."""
        (whole,) = Linear().to_ours(theirs, [self._joined(shapes)])
        *others, last = np.split(whole, np.cumsum([shape[-1] for shape in shapes])[:-1], axis=-1)
        if self.pairs:
            last = np.concatenate(Alternating().to_ours(last, ()), axis=-1)
        return [*others, last]


@dataclasses.dataclass(frozen=True)
class Alternating:
    """Two of our arrays [..., F] in alternate columns of theirs [..., 2 F]."""

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Returns the shape of ours with the last size doubled."""
        return (*ours[0][:-1], 2 * ours[0][-1])

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Stacks the arrays on a new last axis, then joins that axis with the one before."""
        return np.stack(ours, axis=-1).reshape(self.shape([array.shape for array in ours]))

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Returns the even columns and the odd columns."""
        return [theirs[..., 0::2], theirs[..., 1::2]]


@dataclasses.dataclass(frozen=True)
class EveryExpert:
    """All experts of a layer in one tensor with experts on its first axis.

    Each expert is made of ``parts`` arrays of ours, in the layout ``each``.
    """

    each: Layout
    parts: int = 1

    def _groups(self, items: Sequence) -> list[Sequence]:
        return [items[first : first + self.parts] for first in range(0, len(items), self.parts)]

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Returns [number of experts, *shape of one expert]."""
        groups = self._groups(ours)
        return (len(groups), *self.each.shape(groups[0]))

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Stacks the experts."""
        return np.stack([self.each.to_theirs(group) for group in self._groups(ours)])

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Takes the array apart."""
        groups = zip(theirs, self._groups(shapes), strict=True)
        return [array for one, group in groups for array in self.each.to_ours(one, group)]


@dataclasses.dataclass(frozen=True)
class Taps:
    """A depthwise ``torch.nn.Conv1d``: theirs is [channels, 1, taps], ours is [taps, channels...]."""

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Returns [product of the channel axes, 1, taps]."""
        (shape,) = ours
        return math.prod(shape[1:]), 1, shape[0]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Flattens and transposes the array."""
        (array,) = ours
        return array.reshape(len(array), -1).T[:, None, :]

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Transposes the array and splits it into axes."""
        return [theirs[:, 0, :].T.reshape(shapes[0])]


@dataclasses.dataclass(frozen=True)
class FirstRowsUnused:
    """A position table whose first ``rows`` rows belong to no position (RoBERTa, BART, OPT); written as zeros."""

    rows: int

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Returns our shape with ``rows`` more rows."""
        ((length, width),) = ours
        return length + self.rows, width

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Puts rows of zeros before our table."""
        return np.concatenate([np.zeros((self.rows, ours[0].shape[1]), ours[0].dtype), ours[0]])

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Drops the unused rows."""
        return [theirs[self.rows :]]


@dataclasses.dataclass(frozen=True)
class Row:
    """A vector of ours that is a matrix of one row in theirs."""

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Returns [1, *our shape]."""
        return (1, *ours[0])

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Adds the axis."""
        return ours[0][None]

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Drops the axis."""
        return [theirs[0]]
