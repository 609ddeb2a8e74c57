"""The parts of a block that are not attention: projections, norms, feed-forward, embedding, dropout.

A parameter carries two facts besides its values. ``axes`` are the logical names of its dimensions;
:mod:`lmjax.parallel.mesh` decides from them how it is split over devices. ``kind`` (``matrix``, ``embedding``,
``norm``, ``bias``) decides its weight decay and learning rate.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.kernels.low_precision import LowPrecision, low_precision_product
from lmjax.models.config import GATED, ModelConfig
from lmjax.models.lookup import TableGradient, rows_of
from lmjax.models.remat import named
from lmjax.parallel.mesh import constrain, flatten_tokens, unflatten_tokens


def parameter(value: jax.Array, axes: Sequence[str | None], kind: str) -> nnx.Param:
    """Returns a parameter that carries the names of its axes and its kind."""
    assert value.ndim == len(axes), (value.shape, axes)
    return nnx.Param(value, axes=tuple(axes), kind=kind)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Returns ``x`` with dropout, or ``x`` itself if there is no key.

    Values are set to 0 with probability ``rate``; the others are multiplied by 1 / (1 - rate).
    """
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def split_key(key: jax.Array | None, num: int) -> Sequence[jax.Array | None]:
    """Returns ``num`` keys by ``jax.random.split``, or ``num`` times None if the key is None."""
    return [None] * num if key is None else list(jax.random.split(key, num))


def turned_product(rows: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns ``rows W^T``, [R, N], of rows [R, K] and a matrix [N, K], in the dtype of the matrix.

    The few rows are laid out as columns before the product, and the result as rows after it. Without the barriers XLA
    takes both into the product, which on a CPU then takes two to four times as long for four rows or more
    (``benchmarks/decode.py``).
    """
    columns = jax.lax.optimization_barrier(rows.astype(weight.dtype).T)
    return jax.lax.optimization_barrier(weight @ columns).T


class Projection(nnx.Module):
    """A learned linear map ``x W (+ b)`` between named groups of axes."""

    def __init__(
        self,
        in_axes: dict[str, int],
        out_axes: dict[str, int],
        *,
        std: float | None,
        scale: float = 1.0,
        bias: bool,
        dtype: str,
        low_precision: LowPrecision = "none",
        rngs: nnx.Rngs,
    ):
        """Initialises ``W ~ N(0, std)``.

        Args:
          in_axes: name and size of each contracted axis (the last axes of the input).
          out_axes: name and size of each new axis.
          std: standard deviation; None means 1/sqrt(fan-in).
          scale: factor of the standard deviation.
          bias: whether to add a bias.
          dtype: arithmetic of the product.
          low_precision: whether the product has 8 bits, see :mod:`lmjax.kernels.low_precision`.
          rngs: source of the initial values.
        """
        std = (1 / math.sqrt(math.prod(in_axes.values())) if std is None else std) * scale
        shape = (*in_axes.values(), *out_axes.values())
        axes = (*in_axes, *out_axes)
        self.weight = parameter(std * jax.random.normal(rngs.params(), shape), axes, "matrix")
        bias_shape = tuple(out_axes.values())
        self.bias = nnx.data(parameter(jnp.zeros(bias_shape), tuple(out_axes), "bias") if bias else None)
        self.num_in = len(in_axes)
        self.in_shape, self.out_shape = tuple(in_axes.values()), bias_shape
        self.dtype, self.low_precision = dtype, low_precision
        self.turned = False

    def turn(self) -> None:
        """Stores the matrix as [out, in], for products with few rows on CPUs.

        There ``W x`` reads each row of W once, from beginning to end, which takes two thirds of the time of ``x W`` for
        one row and half of it for eight (``benchmarks/decode.py``). A product of 16-bit floats is computed in float32
        and rounded, as XLA does it, but the matrix is converted here and not in each product.
        """
        weight = self.weight[...].reshape(math.prod(self.in_shape), -1)
        self.weight = parameter(weight.T.astype(self.dtype).astype(jnp.float32), ("out", "in"), "matrix")
        self.turned = True

    def matrix(self) -> jax.Array:
        """Returns the matrix in the dtype of the product, by the named axes: [*in, *out]."""
        weight = self.weight[...].astype(self.dtype)
        return weight.T.reshape(*self.in_shape, *self.out_shape) if self.turned else weight

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns ``x W (+ b)``, in which the last ``len(in_axes)`` axes of ``x`` are contracted."""
        batch_shape, out_shape = x.shape[: x.ndim - self.num_in], self.out_shape
        # This is one matrix product: XLA's CPU backend takes twice as long for the gradients of the general form.
        x = x.astype(self.dtype).reshape(*batch_shape, -1)
        rows = flatten_tokens(x) if len(batch_shape) == 2 else x.reshape(-1, x.shape[-1])
        if self.turned:
            y = turned_product(rows, self.weight[...]).astype(self.dtype)
        else:
            weight = self.weight[...].astype(self.dtype).reshape(rows.shape[1], -1)
            is_low = self.low_precision != "none"
            y = low_precision_product(rows, weight, self.low_precision) if is_low else rows @ weight
        if self.bias is not None:
            y = y + self.bias[...].astype(self.dtype).reshape(1, -1)
        y = unflatten_tokens(y, *batch_shape) if len(batch_shape) == 2 else y
        return y.reshape(*batch_shape, *out_shape)


def turn_matrices(module: nnx.Module, *, but: str | None = None) -> None:
    """Turns all projections of a module (:meth:`Projection.turn`), except in its part of the name ``but``."""
    for path, part in list(nnx.iter_modules(module)):
        if isinstance(part, Projection) and (not path or path[0] != but):
            part.turn()


class Norm(nnx.Module):
    """RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016) over the last axis, in float32."""

    def __init__(self, width: int, *, kind: str, epsilon: float, bias: bool, scale: bool = True, offset: bool = False):
        """Initialises the scale to one and a layer norm's bias to zero; ``offset`` stores the scale minus one."""
        initial = jnp.zeros((width,)) if offset else jnp.ones((width,))
        self.scale = nnx.data(parameter(initial, ("norm",), "norm") if scale else None)
        self.offset = offset
        use_bias = bias and kind == "layernorm"
        self.bias = nnx.data(parameter(jnp.zeros((width,)), ("norm",), "bias") if use_bias else None)
        self.centred = kind == "layernorm"
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the normalised ``x`` in its own dtype."""
        wide = x.astype(jnp.float32)
        if self.centred:
            wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        broadcast = (1,) * (x.ndim - 1) + (-1,)
        y = wide * jax.lax.rsqrt(variance + self.epsilon)
        if self.scale is not None:
            scale = 1 + self.scale[...] if self.offset else self.scale[...]
            y = y * scale.reshape(broadcast)
        if self.bias is not None:
            y = y + self.bias[...].reshape(broadcast)
        return y.astype(x.dtype)


def make_norm(config: ModelConfig, width: int | None = None) -> Norm:
    """Returns the norm that a configuration asks for, over vectors of ``width`` (the model's width when unset)."""
    bias = config.bias if config.norm_bias is None else config.norm_bias
    return Norm(
        width or config.width,
        kind=config.norm,
        epsilon=config.norm_epsilon,
        bias=bias,
        scale=config.norm_scale,
        offset=config.norm_scale_offset,
    )


def residual_scale(config: ModelConfig) -> float:
    """Returns the factor of initial projections into the residual stream, ``1 / sqrt(number of sublayers)`` or 1."""
    sublayers = (1 + (config.encoder_layers > 0) + (config.hidden_width > 0)) * config.num_layers
    return 1 / math.sqrt(sublayers) if config.residual_init == "scaled" else 1.0


CLAMP = 7.0
"""Bound of both halves of `swiglu_clamped`."""

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "silu": jax.nn.silu,
    "swiglu": jax.nn.silu,
    "swiglu_clamped": lambda x: jnp.minimum(x, CLAMP) * jax.nn.sigmoid(1.702 * jnp.minimum(x, CLAMP)),
    "geglu": lambda x: jax.nn.gelu(x, approximate=True),
    "geglu_exact": lambda x: jax.nn.gelu(x, approximate=False),
    "reglu": jax.nn.relu,
}
"""The activation functions by name; a gated one is applied to the gate."""


def activated(activation: str, up: jax.Array, gate: jax.Array | None) -> jax.Array:
    """Returns the hidden values of a feed-forward layer, given its projection ``up`` and, if it is gated, its ``gate``.

    With ``swiglu_clamped`` (OpenAI 2025, gpt-oss, as released) the half that is not the gate is clipped to bounds,
    and 1 is added to it.
    """
    act = ACTIVATIONS[activation]
    if gate is None:
        return act(up)
    return act(gate) * (jnp.clip(up, -CLAMP, CLAMP) + 1 if activation == "swiglu_clamped" else up)


class FeedForward(nnx.Module):
    """Computes ``act(x W_up) W_down``, or if gated ``(act(x W_gate) * x W_up) W_down`` (Shazeer 2020)."""

    def __init__(self, config: ModelConfig, *, width: int | None = None, rngs: nnx.Rngs):
        """Builds the projections; ``width`` is the hidden width (the configuration's when unset)."""
        project = partial(
            Projection,
            std=config.matrix_std,
            bias=config.bias,
            dtype=config.dtype,
            low_precision=config.execution.low_precision,
            rngs=rngs,
        )
        embed, mlp = {"embed": config.width}, {"mlp": config.hidden_width if width is None else width}
        self.up = project(embed, mlp)
        self.gate = nnx.data(project(embed, mlp) if config.activation in GATED else None)
        self.down = project(mlp, embed, scale=residual_scale(config))
        self.activation = config.activation

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        up_BTF = named(self.up(x_BTD), "up")
        gate_BTF = None if self.gate is None else named(self.gate(x_BTD), "gate")
        hidden_BTF = activated(self.activation, up_BTF, gate_BTF)
        return self.down(constrain(hidden_BTF, "batch", "length", "mlp"))


class Embedding(nnx.Module):
    """A table with one vector for each id; the head shares the token table when embeddings are tied."""

    def __init__(self, num: int, width: int, *, axes: tuple[str, str], std: float, rngs: nnx.Rngs):
        """Initialises ``table ~ N(0, std)``; ``axes`` names its two dimensions."""
        self.table_VD = parameter(std * jax.random.normal(rngs.params(), (num, width)), axes, "embedding")

    def __call__(self, ids: jax.Array, dtype: str, gradient: TableGradient = "step") -> jax.Array:
        """Returns the rows of the table for the ids, cast to ``dtype``; ``gradient`` is as for :func:`rows_of`."""
        return rows_of(self.table_VD[...], ids, gradient).astype(dtype)
