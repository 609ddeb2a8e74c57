"""A transformer that also reads the noise level of its input, for diffusion models."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.models.config import ModelConfig
from lmjax.models.hidden import Hidden
from lmjax.models.layers import Projection, split_key
from lmjax.models.positions import sinusoidal
from lmjax.models.transformer import Transformer
from lmjax.types import Stream

RESOLUTION = 1000
"""The noise levels from 0 to 1 become positions from 0 to this (Ho et al. 2020: the number of their steps)."""


class TimeConditionedTransformer(Transformer):
    """Adds ``W2 silu(W1 sin(1000 level))`` to every embedding of a row; W2 starts at zero."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Builds the transformer and the two layers that read the noise level."""
        super().__init__(config, rngs=rngs)
        project = partial(Projection, bias=True, dtype=config.dtype, rngs=rngs)
        self.time_in = project({"time": config.width}, {"mlp": config.width}, std=None)
        self.time_out = project({"mlp": config.width}, {"embed": config.width}, std=0.0)

    def __call__(  # type: ignore[override]
        self, stream: Stream, *, level_B: jax.Array, key: jax.Array | None = None
    ) -> Hidden:
        """Runs the model on rows of a known noise level.

        Args:
          stream: tokens, positions and mask.
          level_B: float32, the noise level of each row, from 0 (none) to 1.
          key: PRNG key of dropout; None turns dropout off.
        """
        embed_key, run_key = split_key(key, 2)
        waves_B1D = sinusoidal(RESOLUTION * level_B[:, None], self.config.width).astype(self.config.dtype)
        condition_B1D = self.time_out(jax.nn.silu(self.time_in(waves_B1D)))
        x_BTD = jnp.add(*jnp.broadcast_arrays(self.embed(stream, key=embed_key), condition_B1D))
        return self.run(x_BTD, stream.positions_BT, stream.mask, valid_BT=stream.valid_BT, key=run_key)
