"""Texts as windows: each token is predicted once, with as much text before it as the model can read.

The first window predicts all of its tokens. Each later one begins ``stride`` tokens further on and predicts only the
tokens that no window before it has, so that each of them follows at least ``window - stride`` others. The last window
reaches back so far that it is full. This is the division of lm-evaluation-harness (``get_rolling_token_windows`` with
``max_seq_len = window`` and ``context_len = window - stride + 1``). Its ``loglikelihood_rolling`` has
``stride = window``.

Axes: N tokens of a text, or inputs of a window.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lmjax.types import IGNORE_INDEX


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """A part of a text that the model reads at once.

    Attributes:
      inputs_N: int32, the tokens that are read.
      targets_N: int32, the token after each of them; ``IGNORE_INDEX`` where it is not scored.
      first: the place in its text of the token after the first input.
      label: anything that tells the caller which text it is of.
    """

    inputs_N: np.ndarray
    targets_N: np.ndarray
    first: int = 0
    label: Any = None

    @property
    def scored(self) -> np.ndarray:
        """The places among the targets of those that are scored."""
        return np.flatnonzero(self.targets_N != IGNORE_INDEX)

    @property
    def places(self) -> np.ndarray:
        """The places in the text of the tokens that are scored."""
        return self.first + self.scored


def check_sizes(window: int, stride: int, *, max_length: int | None = None) -> None:
    """Refuses sizes of windows that are impossible.

    Raises:
      ValueError: naming the option.
    """
    if window < 1:
        raise ValueError(f"window={window}: must be at least 1")
    if not 1 <= stride <= window:
        raise ValueError(
            f"stride={stride} with window={window}: must be from 1, which gives each token the most text before it, to "
            f"the window, which is fastest"
        )
    if max_length is not None and window > max_length:
        raise ValueError(
            f"window={window}: the model has learned {max_length} positions: set it to {max_length} or less"
        )


def windows(
    tokens_N: np.ndarray,
    *,
    prefix: int | None,
    window: int,
    stride: int,
    scored_N: np.ndarray | None = None,
    label: Any = None,
) -> Iterator[Window]:
    """Yields the windows of a text, in which each token is scored once.

    Args:
      tokens_N: the tokens of the text.
      prefix: the token before the first; None if there is none, and the first is not scored.
      window: the largest number of inputs.
      stride: the largest number of tokens that a window after the first one scores.
      scored_N: which tokens to score; all by default. A window without any is left out.
      label: of the windows.
    """
    inputs = np.asarray(tokens_N, np.int32)
    targets = inputs if scored_N is None else np.where(scored_N, inputs, IGNORE_INDEX).astype(np.int32)
    first = 0 if prefix is not None else 1
    if prefix is not None:
        inputs = np.concatenate([[np.int32(prefix)], inputs])
    # Input i comes before targets[first + i].
    targets = targets[first:]
    done = 0
    while done < len(targets):
        end = min(done + (window if done == 0 else stride), len(targets))
        begin = max(end - window, 0)
        own = targets[begin:end].copy()
        own[: done - begin] = IGNORE_INDEX
        if (own != IGNORE_INDEX).any():
            yield Window(inputs[begin:end], own, first + begin, label)
        done = end


@dataclasses.dataclass(frozen=True, eq=False)
class PackedWindows:
    """Windows in the rows of a batch; those of a row do not see each other.

    Attributes:
      inputs_BT: int32, 0 where nothing is.
      targets_BT: int32, ``IGNORE_INDEX`` where nothing is scored.
      segments_BT: int32, the number of the window of each position, 0 where nothing is.
      places: each window with its row and the place of its first input in it.
    """

    inputs_BT: np.ndarray
    targets_BT: np.ndarray
    segments_BT: np.ndarray
    places: list[tuple[Window, int, int]]


def packed(found: Iterable[Window], *, num_rows: int, width: int) -> Iterator[PackedWindows]:
    """Yields batches of one shape that hold windows in order, a row as many as there is room for.

    Args:
      found: the windows.
      num_rows: B.
      width: T, at least the length of the longest window.
    """
    batch, row, used, segment = _empty(num_rows, width), 0, 0, 0
    for window in found:
        length = len(window.inputs_N)
        if used + length > width:
            row, used, segment = row + 1, 0, 0
        if row == num_rows:
            yield batch
            batch, row = _empty(num_rows, width), 0
        segment += 1
        here = slice(used, used + length)
        batch.inputs_BT[row, here] = window.inputs_N
        batch.targets_BT[row, here] = window.targets_N
        batch.segments_BT[row, here] = segment
        batch.places.append((window, row, used))
        used += length
    if batch.places:
        yield batch


def _empty(num_rows: int, width: int) -> PackedWindows:
    shape = (num_rows, width)
    return PackedWindows(
        np.zeros(shape, np.int32), np.full(shape, IGNORE_INDEX, np.int32), np.zeros(shape, np.int32), []
    )
