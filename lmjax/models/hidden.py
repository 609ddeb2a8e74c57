"""The record that a stack of blocks returns."""

import dataclasses

import jax

from lmjax.models.routing import Routing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hidden:
    """Hidden states, and the routing statistics of the layers with experts.

    Attributes:
      states_BTD: one vector for each position.
      routing: the statistics, each of shape [layers with experts, B], or None for a model without experts.
    """

    states_BTD: jax.Array
    routing: Routing | None
