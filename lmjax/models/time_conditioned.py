"""A transformer that is told how noisy its input is, as some diffusion models are.

``W2 silu(W1 sin(1000 level))`` is added to every embedding of a row; W2 starts at zero.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.models.config import ModelConfig
from lmjax.models.hidden import Hidden
from lmjax.models.layers import Projection, split_key
from lmjax.models.positions import sinusoidal
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import WithExtras
from lmjax.types import Stream

RESOLUTION = 1000
"""Noise levels from 0 to 1 become positions from 0 to this number (Ho et al. 2020: the number of their steps)."""


def time_conditioned(config: ModelConfig, *, rngs: nnx.Rngs) -> WithExtras:
    """Returns a transformer with the two layers that read the noise level, ``time_in`` and ``time_out``."""
    model = Transformer(config, rngs=rngs)

    def project(into: str, out: str, std: float | None) -> Projection:
        width = config.width
        return Projection({into: width}, {out: width}, std=std, bias=True, dtype=config.dtype, rngs=rngs)

    return WithExtras(model, time_in=project("time", "mlp", None), time_out=project("mlp", "embed", 0.0))


def run_at_level(
    conditioned: WithExtras, stream: Stream, level_B: jax.Array, *, key: jax.Array | None = None
) -> Hidden:
    """Returns the hidden states of the model of :func:`time_conditioned` for rows of a known noise level.

    Args:
      conditioned: the model with its two layers.
      stream: tokens, positions and mask.
      level_B: float32, the noise level of each row, from 0 (none) to 1.
      key: PRNG key of dropout; None for none.
    """
    model, time_in, time_out = conditioned.model, conditioned.extras["time_in"], conditioned.extras["time_out"]
    embed_key, run_key = split_key(key, 2)
    waves_B1D = sinusoidal(RESOLUTION * level_B[:, None], model.config.width).astype(model.config.dtype)
    condition_B1D = time_out(jax.nn.silu(time_in(waves_B1D)))
    x_BTD = jnp.add(*jnp.broadcast_arrays(model.embed(stream, key=embed_key), condition_B1D))
    return model.run(x_BTD, stream.positions_BT, stream.mask, valid_BT=stream.valid_BT, key=run_key)
