"""Which positions of a row each device of a mesh axis holds, and how the devices exchange them.

Rows come cut into parts of neighbouring positions, device i of n with part i. Under a causal mask the last part then
sees the most keys, and the other devices wait for the one that has it. In zig-zag order a row is cut into 2n halves of
parts, and device i holds halves i and 2n - 1 - i (Llama 3: Dubey et al. 2024, section 3.3.2): every device then sees as
many keys of each other device as any. Stripes of single positions (Brandon et al. 2023) are as even, but no two
neighbours are then on one device, so that blocks of positions see each other half.

All functions run inside a ``shard_map`` and work along the second axis of arrays.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowParts:
    """The parts of a row.

    Attributes:
      axis: the axis of the mesh.
      size: n, the number of its devices.
      zigzag: whether the devices hold two halves of parts each.
    """

    axis: str
    size: int
    zigzag: bool

    def spread(self, array: jax.Array) -> jax.Array:
        """Returns this device's positions, given its part of neighbouring positions; each half of a part moves once."""
        if not self.zigzag:
            return array
        # Device i has halves 2i and 2i + 1. Each device gets one half with an even number, and one with an odd one.
        even, odd = (
            lax.ppermute(half, self.axis, [(i, self._holder(2 * i + place)) for i in range(self.size)])
            for place, half in enumerate(jnp.split(array, 2, axis=1))
        )
        is_odd = lax.axis_index(self.axis) % 2 == 1
        return jnp.concatenate([jnp.where(is_odd, odd, even), jnp.where(is_odd, even, odd)], axis=1)

    def collect(self, array: jax.Array) -> jax.Array:
        """The inverse of :meth:`spread`."""
        if not self.zigzag:
            return array
        low, high = jnp.split(array, 2, axis=1)
        is_odd = lax.axis_index(self.axis) % 2 == 1
        halves = (jnp.where(is_odd, high, low), jnp.where(is_odd, low, high))
        back = (
            lax.ppermute(half, self.axis, [(self._holder(2 * i + place), i) for i in range(self.size)])
            for place, half in enumerate(halves)
        )
        return jnp.concatenate(list(back), axis=1)

    def places(self, bound_BT: jax.Array, device: jax.Array, length: int) -> jax.Array:
        """Returns how many of the positions that a device holds lie before each bound, int32 of the same shape.

        The positions of a device rise. Those in an interval of the row are therefore neighbours on the device, too, and
        the places of the interval's two bounds are its bounds there.

        Args:
          bound_BT: positions in the row.
          device: the number of the device.
          length: how many positions it holds.
        """
        if not self.zigzag:
            return jnp.clip(bound_BT - device * length, 0, length)
        half = length // 2
        low, high = device * half, (2 * self.size - 1 - device) * half
        return jnp.clip(bound_BT - low, 0, half) + jnp.clip(bound_BT - high, 0, half)

    def passed_on(self, arrays: tuple[jax.Array, ...], steps: int = 1) -> tuple[jax.Array, ...]:
        """Returns the arrays of the device that is ``steps`` before this one on the ring."""
        pairs = [(i, (i + steps) % self.size) for i in range(self.size)]
        return tuple(lax.ppermute(array, self.axis, pairs) for array in arrays)

    def _holder(self, half: int) -> int:
        return min(half, 2 * self.size - 1 - half)
