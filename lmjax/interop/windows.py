"""Converts sliding windows between their list of layer types and our repeating pattern."""

from collections.abc import Sequence
from typing import TypeVar

from lmjax.interop.hf_config import HuggingFaceConfig

FULL, SLIDING = "full_attention", "sliding_attention"

Windows = tuple[int | None, ...]
Value = TypeVar("Value")


def shortest_pattern(values: Sequence[Value]) -> tuple[Value, ...]:
    """Returns the shortest pattern that, repeated and cut to length, gives ``values``, which has one value a layer."""
    for period in range(1, len(values)):
        if all(value == values[layer % period] for layer, value in enumerate(values)):
            return tuple(values[:period])
    return tuple(values)


def unrolled(pattern: Sequence[Value], num_layers: int) -> list[Value]:
    """Returns the value of each layer, from a pattern that repeats."""
    return [pattern[layer % len(pattern)] for layer in range(num_layers)]


def layer_types(windows: Windows, num_layers: int) -> list[str]:
    """Returns their name for each layer's kind of attention."""
    return [FULL if window is None else SLIDING for window in unrolled(windows, num_layers)]


def from_layer_types(hf: HuggingFaceConfig, window: int | None, default: Sequence[str]) -> Windows:
    """Returns our pattern of windows from their ``layer_types`` (``default`` when their configuration has none).

    Raises:
      ValueError: a kind of layer is not implemented.
    """
    types = hf.get("layer_types", None) or default
    for kind in types:
        if kind not in (FULL, SLIDING):
            raise hf.refusal("layer_types", types, f"{kind!r} is not one of {FULL}, {SLIDING}")
    return shortest_pattern([window if kind == SLIDING else None for kind in types])


def one_window(windows: Windows) -> int | None:
    """Returns the window size that all windowed layers share; None without windows, or when sizes differ."""
    sizes = {window for window in windows if window is not None}
    return sizes.pop() if len(sizes) == 1 else None
