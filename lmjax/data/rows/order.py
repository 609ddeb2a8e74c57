"""Shuffling without a shuffled list: a keyed bijection of ``0 .. size - 1`` in constant memory.

A Feistel network on the pair (i // b, i % b), each half taken modulo its own range (the
generalised Feistel cipher of Black and Rogaway, "Ciphers with arbitrary finite domains", 2002, §3),
permutes the numbers below a·b, which is slightly larger than ``size``. If the image of a number is ``size`` or more,
the permutation is applied again until it is not ("cycle walking"); the result is a bijection.
"""

import functools
import hashlib
import math

_MASK = (1 << 64) - 1
_ROUNDS = 6


class Permutation:
    """A pseudorandom bijection of ``range(size)``, a pure function of ``size`` and ``key``."""

    def __init__(self, size: int, *, key: tuple[int, ...]):
        """Takes time and memory that do not depend on ``size``."""
        assert size > 0
        self.size = size
        self._width = math.isqrt(size - 1) + 1
        self._height = -(-size // self._width)
        digest = hashlib.blake2b(repr(key).encode(), digest_size=8 * _ROUNDS).digest()
        self._keys = [int.from_bytes(digest[8 * r : 8 * r + 8], "little") for r in range(_ROUNDS)]

    def __call__(self, index: int) -> int:
        """Returns the image of ``index``."""
        assert 0 <= index < self.size, (index, self.size)
        while True:
            high, low = divmod(index, self._width)
            for number, key in enumerate(self._keys):
                if number % 2:
                    low = (low + _mix(high ^ key)) % self._width
                else:
                    high = (high + _mix(low ^ key)) % self._height
            index = high * self._width + low
            if index < self.size:
                return index


def _mix(value: int) -> int:
    """A 64-bit finaliser: multiply and fold twice, so that every bit depends on every other."""
    value = value * 0x9E3779B97F4A7C15 & _MASK
    value = (value ^ value >> 32) * 0xD6E8FEB86659FD93 & _MASK
    return value ^ value >> 32


@functools.lru_cache(maxsize=64)
def epoch_permutation(size: int, seed: int, epoch: int) -> Permutation:
    """Returns the order of an epoch."""
    return Permutation(size, key=(seed, epoch))


def epoch_offset(size: int, seed: int, epoch: int) -> int:
    """Returns how far the window grid is moved along the stream in an epoch, a number in ``range(size)``."""
    digest = hashlib.blake2b(repr(("offset", seed, epoch)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % size
