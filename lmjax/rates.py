"""One check of the shares and probabilities that functions are given."""

import jax
import numpy as np


def check_rate(function: str, **rates: float | jax.Array | None) -> None:
    """Refuses a rate outside of [0, 1]. A traced value or an array on a device passes, for its value is not known here.

    Raises:
      ValueError: the rate is below 0, above 1 or not a number.
    """
    for name, value in rates.items():
        if isinstance(value, int | float | np.number) and not 0 <= value <= 1:
            raise ValueError(f"{function}: {name}={value}: must be between 0 and 1")
