"""Conversion of token ids, labels and document numbers of any integer type to int32, with which lmjax computes."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

TOO_LARGE = np.iinfo(np.int32).max
"""The value that replaces a number too large for int32. No vocabulary is so large, so it is always a wrong id."""


def as_int32(numbers: ArrayLike, name: str = "token ids") -> jax.Array:
    """Returns the numbers as int32; a number that int32 cannot hold becomes :data:`TOO_LARGE`.

    A plain cast would turn the uint32 4,294,967,196 into -100, the label that is ignored, and arithmetic with -100 in
    an unsigned type would turn it into a large id.

    Args:
      numbers: integers or booleans of any type, from numpy or jax.
      name: their name in the error message.

    Raises:
      ValueError: they are not integers.
    """
    array = numbers if isinstance(numbers, jax.Array) else np.asarray(numbers)
    if array.dtype == np.int32:
        return jnp.asarray(array)
    is_empty = array.size == 0  # an empty list has no type of its own
    if not (is_empty or array.dtype == bool or jnp.issubdtype(array.dtype, jnp.integer)):
        raise ValueError(f"{name} are {array.dtype}: must be integers")
    if not is_empty and array.dtype.itemsize >= 4:
        numpy_or_jax = jnp if isinstance(array, jax.Array) else np
        fits = array <= TOO_LARGE
        if jnp.issubdtype(array.dtype, jnp.signedinteger):
            fits &= array >= -TOO_LARGE
        array = numpy_or_jax.where(fits, array, TOO_LARGE)
    return jnp.asarray(array.astype(np.int32))
