"""Sliding windows: their list of layer types, our repeating pattern."""

from collections.abc import Sequence
from typing import TypeVar

from lmjax.interop.hf_config import HuggingFaceConfig

FULL, SLIDING = "full_attention", "sliding_attention"

Windows = tuple[int | None, ...]
Value = TypeVar("Value")


def shortest_pattern(values: Sequence[Value]) -> tuple[Value, ...]:
    """The shortest pattern whose repetition, cut to length, is ``values``, one for each layer."""
    for period in range(1, len(values)):
        if all(value == values[layer % period] for layer, value in enumerate(values)):
            return tuple(values[:period])
    return tuple(values)


def unrolled(pattern: Sequence[Value], num_layers: int) -> list[Value]:
    """The value of each layer, from a pattern that repeats."""
    return [pattern[layer % len(pattern)] for layer in range(num_layers)]


def layer_types(windows: Windows, num_layers: int) -> list[str]:
    """Their name for each layer's kind of attention."""
    return [FULL if window is None else SLIDING for window in unrolled(windows, num_layers)]


def from_layer_types(hf: HuggingFaceConfig, window: int | None, default: Sequence[str]) -> Windows:
    """Our pattern from their ``layer_types`` (``default`` when it has none).

    Raises:
      ValueError: a kind of layer that is not implemented.
    """
    types = hf.get("layer_types", None) or default
    for kind in types:
        if kind not in (FULL, SLIDING):
            raise hf.refusal("layer_types", types, f"{kind!r} is not one of {FULL}, {SLIDING}")
    return shortest_pattern([window if kind == SLIDING else None for kind in types])


def one_window(windows: Windows) -> int | None:
    """The one size all windowed layers have; None without windows, or when they have several."""
    sizes = {window for window in windows if window is not None}
    return sizes.pop() if len(sizes) == 1 else None
