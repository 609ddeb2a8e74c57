"""Contrastive decoding: the choices of a strong model that a weak one would not make (Li et al. 2023)."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from lmjax.models.parameters import ModuleSpec, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Amateur:
    """The weak model of contrastive decoding.

    Attributes:
      spec: its module.
      params: its parameters.
      plausibility: alpha. Only tokens are chosen that are at least this many times as likely, to the strong model, as
        the most likely token.
      temperature: what the weak model's logits are divided by.
      max_length: the number of positions it has learned; None where it has no such limit.
    """

    spec: ModuleSpec
    params: Params | None = dataclasses.field(compare=False)
    plausibility: float = 0.1
    temperature: float = 1.0
    max_length: int | None = None

    def __post_init__(self):
        if not (math.isfinite(self.plausibility) and 0 < self.plausibility <= 1):
            raise ValueError(f"plausibility={self.plausibility}: must be above 0 and at most 1")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"amateur temperature={self.temperature}: must be above 0")


def contrasted(expert_BV: jax.Array, amateur_BV: jax.Array, amateur: Amateur) -> jax.Array:
    """Returns ``log p_expert - log p_amateur`` where the expert finds a token plausible, and -inf elsewhere.

    A token x is plausible if ``p_expert(x) >= plausibility * max p_expert``.

    Args:
      expert_BV: float32 logits of the strong model.
      amateur_BV: float32 logits of the weak model.
      amateur: the two numbers.

    Source: Li et al. 2023, "Contrastive Decoding", equations 2 to 4.
    """
    expert_BV = jax.nn.log_softmax(expert_BV, axis=-1)
    amateur_BV = jax.nn.log_softmax(amateur_BV / amateur.temperature, axis=-1)
    least_B1 = jnp.max(expert_BV, axis=-1, keepdims=True) + math.log(amateur.plausibility)
    # The models' tables may be padded to different sizes; ids of the tokenizer stand in both.
    size = min(expert_BV.shape[-1], amateur_BV.shape[-1])
    score_BV = expert_BV[:, :size] - jnp.maximum(amateur_BV[:, :size], -1e9)
    return jnp.where(expert_BV[:, :size] >= least_B1, score_BV, -jnp.inf)
