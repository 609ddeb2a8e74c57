"""Corruption on the device: pure functions of a PRNG key and token rows, under any jit, vmap or mesh.

Each function takes the key first, has static shapes and works within rows only, so a batch that is
split over devices needs no communication and gives the same result as on one device.
"""

from lmjax.corruption.prefix import split_prefix
from lmjax.corruption.tokens import mask_tokens

__all__ = ["mask_tokens", "split_prefix"]
