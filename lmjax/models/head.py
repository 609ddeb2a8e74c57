"""The map from hidden states to logits."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from lmjax.parallel.mesh import constrain


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Head:
    """The map from hidden states to logits, as single arrays, so that a fused loss can use them directly.

    Attributes:
      weight_DV: the output matrix.
      bias_V: the bias that is added to the logits, or None.
      softcap: the bound of the logits, which become ``softcap * tanh(logits / softcap)``, or None.
    """

    weight_DV: jax.Array
    bias_V: jax.Array | None
    softcap: float | None = dataclasses.field(metadata={"static": True})

    def logits(self, states: jax.Array) -> jax.Array:
        """Returns float32 logits [..., V] of the model's ``head_states`` [..., D]."""
        weight_DV = self.weight_DV.astype(states.dtype)
        logits = jnp.tensordot(states, weight_DV, axes=1, preferred_element_type=jnp.float32)
        return self.finished(logits)

    def finished(self, logits: jax.Array) -> jax.Array:
        """Returns logits, the float32 products of the states and the matrix, with the bias added and capped."""
        if self.bias_V is not None:
            logits = logits + self.bias_V.reshape((1,) * (logits.ndim - 1) + (-1,))
        return logits if self.softcap is None else self.softcap * jnp.tanh(logits / self.softcap)


class HasHead(Protocol):
    """A model that has an output map."""

    def head(self) -> Head:
        """Returns the output map."""

    def head_states(self, hidden: jax.Array) -> jax.Array:
        """Returns the states that the output map is applied to."""


def gathered_head(model: HasHead) -> Callable[[jax.Array], jax.Array]:
    """Returns the map from hidden states [B, C, D] to logits [B, C, V].

    The output matrix is gathered from the devices once, in this function, and not again for every chunk of positions.
    """
    head = model.head()
    head = dataclasses.replace(head, weight_DV=constrain(head.weight_DV, None, "vocab"))

    def logits(hidden_BCD: jax.Array) -> jax.Array:
        return constrain(head.logits(model.head_states(hidden_BCD)), "batch", None, "vocab")

    return logits
