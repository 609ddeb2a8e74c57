"""The values that options of sampling may have."""

from collections.abc import Callable

import jax
import numpy as np

LARGEST = 1e6
"""The largest factor or summand of a logit. With a larger one, float32 could not hold the result."""


def _scales(value: float) -> bool:
    return 1 / LARGEST <= value <= LARGEST


def _moves(value: float) -> bool:
    return -LARGEST <= value <= LARGEST


def _counts(value: float) -> bool:
    return value >= 1 and value == int(value)


_SCALES, _MOVES = f"must be a number from {1 / LARGEST:g} to {LARGEST:g}", f"must be within {LARGEST:g} of 0"
_SHARES = "must be above 0 and at most 1"
CHECKS: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (_scales, f"{_SCALES}; 0 is greedy"),
    "repetition_penalty": (_scales, f"{_SCALES}; above 1 discourages"),
    "frequency_penalty": (_moves, _MOVES),
    "presence_penalty": (_moves, _MOVES),
    "no_repeat_ngram": (_counts, "must be at least 1"),
    "top_k": (_counts, "must be at least 1"),
    "top_p_least": (_counts, "must be at least 1"),
    "top_p_most": (_counts, "must be at least 1"),
    "logit_bias": (_moves, _MOVES),
    "top_p": (lambda value: 0 < value <= 1, _SHARES),
    "min_p": (lambda value: 0 < value <= 1, _SHARES),
    "typical_p": (lambda value: 0 < value <= 1, _SHARES),
    "epsilon": (lambda value: 0 < value < 1, "must be above 0 and below 1"),
}


def check_value(name: str, value: float | jax.Array) -> None:
    """Refuses a value that cannot be used for sampling, such as NaN or infinity. A traced value is not checked.

    Args:
      name: a field of :class:`~lmjax.decode.logits.SamplingConfig`.
      value: its value.

    Raises:
      ValueError: naming field, value and what is possible.
    """
    possible, remedy = CHECKS[name]
    is_number = isinstance(value, int | float | np.number) and bool(np.isfinite(value))
    if not isinstance(value, jax.Array) and not (is_number and possible(float(value))):
        raise ValueError(f"{name}={value}: {remedy}")
