"""A mixture of experts in place of a feed-forward layer (Shazeer et al. 2017).

    y = sum over the chosen j of  gate_j FFN_j(x)  (+ FFN_shared(x))

There are two forms. *Dropless*: the tokens of the batch are sorted by expert (:mod:`lmjax.kernels.grouped`), and
every choice is computed. *With a capacity*: every expert has the same number of places for the tokens of a row. The
places are given to the tokens in the order of the row. Whether a token finds a place depends only on earlier tokens of
its row, not on other rows and not on how rows are split over devices. ``capacity_factor`` chooses the form for
training; decoding with a cache never drops a token.

On a mesh, the experts are split over the axis ``expert`` and their hidden width over ``tensor``. With a capacity, two
all-to-alls bring the tokens to the devices of their experts and back. In the dropless form, each device gathers the
tokens of all ``expert`` devices and computes the choices of its own experts; the sums then go back to the devices of
the tokens.

Axes: E experts, J choices of a token, R choices of a row in one line, C places of an expert, S slots, N tokens
of all rows in one line.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.kernels.grouped import from_slots, group_rows, to_slots
from lmjax.models.config import GATED, ModelConfig
from lmjax.models.layers import FeedForward, activated, parameter, residual_scale
from lmjax.models.routing import BIAS_KIND, Routing, choose, report
from lmjax.parallel.mesh import axes_of, constrain, current_platform, partition_spec

Weights = dict[str, tuple[jax.Array, jax.Array | None]]


class Router(nnx.Module):
    """The layer that computes the experts' logits in float32.

    It has a learned bias on the logits if the configuration asks for it, and a bias that is used only to rank experts.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Initialises ``W ~ N(0, std)`` and the biases to 0."""
        number = config.experts.number
        # By muP, table 3, the experts are outputs whose number does not grow with the width of the model.
        weight_DE = config.base_std / config.width_ratio * jax.random.normal(rngs.params(), (config.width, number))
        self.weight = parameter(weight_DE, ("embed", "choices"), "matrix")
        has_bias = config.experts.balance_bias
        self.bias = nnx.data(parameter(jnp.zeros((number,)), ("choices",), BIAS_KIND) if has_bias else None)
        has_logit_bias = config.experts.router_bias
        self.logit_bias = nnx.data(parameter(jnp.zeros((number,)), ("choices",), "bias") if has_logit_bias else None)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Returns the logits of the experts, float32 [B, T, E]."""
        logits_BTE = jnp.matmul(x_BTD.astype(jnp.float32), self.weight[...], precision=jax.lax.Precision.HIGHEST)
        return logits_BTE if self.logit_bias is None else logits_BTE + self.logit_bias[...][None, None, :]


class ExpertProjections(nnx.Module):
    """One of the projections of a feed-forward, for all experts together."""

    def __init__(self, config: ModelConfig, axes: tuple[str, str], sizes: tuple[int, int], scale: float, rngs):
        """Initialises ``W ~ N(0, scale * std)`` of shape [E, in, out], and biases 0 if the model has biases."""
        number, (_, out_axis) = config.experts.number, axes
        std = sizes[0] ** -0.5 if config.matrix_std is None else config.matrix_std
        weight = scale * std * jax.random.normal(rngs.params(), (number, *sizes))
        self.weight = parameter(weight, ("experts", *axes), "matrix")
        bias = jnp.zeros((number, sizes[1]))
        self.bias = nnx.data(parameter(bias, ("experts", out_axis), "bias") if config.bias else None)

    def weights(self, dtype: str) -> tuple[jax.Array, jax.Array | None]:
        """Returns the matrices and the biases in ``dtype``."""
        return self.weight[...].astype(dtype), None if self.bias is None else self.bias[...].astype(dtype)


class Experts(nnx.Module):
    """A layer of experts: the router, the experts, and the shared expert if there is one."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Builds the router, the experts and the shared expert."""
        self.config = config
        width = config.hidden_width if config.experts.width is None else config.experts.width
        self.router = Router(config, rngs=rngs)
        project = partial(ExpertProjections, config, rngs=rngs)
        self.up = project(("embed", "mlp"), (config.width, width), 1.0)
        is_gated = config.activation in GATED
        self.gate = nnx.data(project(("embed", "mlp"), (config.width, width), 1.0) if is_gated else None)
        self.down = project(("mlp", "embed"), (width, config.width), residual_scale(config))
        shared = config.experts.shared * width
        self.shared = nnx.data(FeedForward(config, width=shared, rngs=rngs) if shared else None)

    def __call__(
        self, x_BTD: jax.Array, *, valid_BT: jax.Array | None = None, dropless: bool = False
    ) -> tuple[jax.Array, Routing]:
        """Maps [B, T, D] to [B, T, D]; also returns the statistics of the routing.

        Args:
          x_BTD: normalised input.
          valid_BT: False on padding; padding takes no place of an expert and is not counted in the statistics.
          dropless: whether to compute every choice, whatever ``capacity_factor`` is.
        """
        config, experts = self.config, self.config.experts
        valid_BT = jnp.ones(x_BTD.shape[:2], bool) if valid_BT is None else valid_BT
        logits_BTE = self.router(x_BTD)
        bias_E = None if self.router.bias is None else self.router.bias[...]
        chosen_BTJ, gates_BTJ, scores_BTE = choose(experts, logits_BTE, bias_E)
        x_BTD = x_BTD.astype(config.dtype)
        if dropless or experts.capacity_factor is None:
            kept_BTJ, out_BTD = None, self._dropless(x_BTD, chosen_BTJ, gates_BTJ)
        else:
            slot_BTJ, kept_BTJ = slots_in_rows(chosen_BTJ, valid_BT, experts.number, experts.capacity(x_BTD.shape[1]))
            out_BTD = self._with_capacity(x_BTD, slot_BTJ, gates_BTJ)
        if self.shared is not None:
            out_BTD = out_BTD + self.shared(x_BTD)
        return out_BTD, report(logits_BTE, scores_BTE, chosen_BTJ, bias_E, valid_BT=valid_BT, kept_BTJ=kept_BTJ)

    def _weights(self) -> Weights:
        named = {"up": self.up, "gate": self.gate, "down": self.down}
        return {name: part.weights(self.config.dtype) for name, part in named.items() if part is not None}

    def _with_capacity(self, x_BTD: jax.Array, slot_BTJ: jax.Array, gates_BTJ: jax.Array) -> jax.Array:
        num_rows, length, width = x_BTD.shape
        number, capacity = self.config.experts.number, self.config.experts.capacity(length)

        def multiply(x_BECD: jax.Array, weight_EDF: jax.Array, bias_EF: jax.Array | None) -> jax.Array:
            out_BECF = jnp.einsum("becd,edf->becf", x_BECD, weight_EDF)
            return out_BECF if bias_EF is None else out_BECF + bias_EF[None, :, None, :]

        x_BTD = constrain(x_BTD, "batch", None, None)
        slots_BSD = jax.vmap(partial(to_slots, num_slots=number * capacity))(x_BTD, slot_BTJ)
        x_BECD = constrain(slots_BSD, "batch", None, None).reshape(num_rows, number, capacity, width)
        x_BECD = constrain(x_BECD, "routed_batch", "experts", None, None)
        y_BECD = _feedforward(x_BECD, self._weights(), multiply, self.config.activation)
        y_BECD = constrain(constrain(y_BECD, "routed_batch", "experts", None, None), "batch", None, None, None)
        out_BTD = jax.vmap(from_slots)(y_BECD.reshape(slots_BSD.shape), slot_BTJ, gates_BTJ)
        return constrain(out_BTD.astype(x_BTD.dtype), "batch", "length", None)

    def _dropless(self, x_BTD: jax.Array, chosen_BTJ: jax.Array, gates_BTJ: jax.Array) -> jax.Array:
        weights, activation = self._weights(), self.config.activation
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1 or mesh.manual_axes:
            return _serve(x_BTD, chosen_BTJ, gates_BTJ, weights, activation=activation)
        tokens = partition_spec(("batch", "length", None), x_BTD.shape, mesh)
        into, out_of = ("experts", None, "mlp"), ("experts", "mlp", None)
        specs = {}
        for name, (weight, bias) in weights.items():
            axes = out_of if name == "down" else into
            bias_spec = None if bias is None else partition_spec((axes[0], axes[2]), bias.shape, mesh)
            specs[name] = (partition_spec(axes, weight.shape, mesh), bias_spec)
        expert_axes, _, tensor_axes = map(axes_of, specs["up"][0])
        serve = partial(
            _serve,
            activation=activation,
            expert_axes=expert_axes,
            tensor_axes=tensor_axes,
            is_split=set(expert_axes) <= set(axes_of(tokens[0])),
        )
        # The gradient is summed over every axis that a specification does not name, even an axis of one device. TPU
        # kernels are compiled only if all axes are manual.
        is_tpu = current_platform() == "tpu"
        used = {axis for axis, size in mesh.shape.items() if size > 1 or is_tpu}
        mapped = jax.shard_map(
            serve, in_specs=(tokens, tokens, tokens, specs), out_specs=tokens, axis_names=used, check_vma=False
        )
        return mapped(x_BTD, chosen_BTJ, gates_BTJ, weights)


def slots_in_rows(
    chosen_BTJ: jax.Array, valid_BT: jax.Array, number: int, capacity: int
) -> tuple[jax.Array, jax.Array]:
    """Gives the choices of each row their places, in the order of the row.

    Expert e has the slots ``e C`` to ``(e + 1) C - 1``.

    Returns:
      slot_BTJ (int32): the slot of each choice, ``E C`` for a choice without a place; and kept_BTJ (bool): whether the
      choice has a place.
    """
    num_rows, length, num_choices = chosen_BTJ.shape
    chosen_BR = chosen_BTJ.reshape(num_rows, -1)
    valid_BR = jnp.repeat(valid_BT, num_choices, axis=1)
    is_chosen_BRE = (chosen_BR[..., None] == jnp.arange(number)[None, None, :]) & valid_BR[..., None]
    before_BRE = jnp.cumsum(is_chosen_BRE, axis=1, dtype=jnp.int32) - is_chosen_BRE
    place_BR = jnp.take_along_axis(before_BRE, chosen_BR[..., None], axis=2)[..., 0]
    kept_BR = valid_BR & (place_BR < capacity)
    slot_BR = jnp.where(kept_BR, chosen_BR * capacity + place_BR, number * capacity)
    shape = (num_rows, length, num_choices)
    return slot_BR.reshape(shape), kept_BR.reshape(shape)


def _feedforward(x: jax.Array, weights: Weights, multiply, activation: str) -> jax.Array:
    up = multiply(x, *weights["up"])
    gate = multiply(x, *weights["gate"]) if "gate" in weights else None
    return multiply(activated(activation, up, gate), *weights["down"])


def _serve(
    x_BTD: jax.Array,
    chosen_BTJ: jax.Array,
    gates_BTJ: jax.Array,
    weights: Weights,
    *,
    activation: str,
    expert_axes: tuple[str, ...] = (),
    tensor_axes: tuple[str, ...] = (),
    is_split: bool = False,
) -> jax.Array:
    """Computes the experts of one device for its own tokens or, if ``is_split``, for the tokens of all devices that
    share the experts."""
    gathered = (x_BTD, chosen_BTJ, gates_BTJ)
    number, width = weights["up"][0].shape[0], x_BTD.shape[-1]
    first = number * jax.lax.axis_index(expert_axes) if expert_axes else jnp.zeros((), jnp.int32)
    if expert_axes and is_split:
        gathered = tuple(jax.lax.all_gather(array, expert_axes, axis=0, tiled=True) for array in gathered)
    all_BTD, chosen_BTJ, gates_BTJ = gathered
    groups = group_rows(chosen_BTJ.reshape(-1) - first, number)
    slot_NJ = groups.slot_R.reshape(-1, chosen_BTJ.shape[-1])
    x_SD = to_slots(all_BTD.reshape(-1, width), slot_NJ, groups.num_slots)
    down, bias = weights["down"]
    if bias is not None and tensor_axes:
        # Each device has a part of the sum over the hidden width. The bias must be counted once in the whole sum.
        bias = bias / jax.lax.axis_size(tensor_axes)
    y_SD = _feedforward(x_SD, weights | {"down": (down, bias)}, groups.multiply, activation)
    out_BTD = from_slots(y_SD, slot_NJ, gates_BTJ.reshape(slot_NJ.shape)).astype(x_BTD.dtype).reshape(all_BTD.shape)
    if expert_axes and is_split:
        out_BTD = jax.lax.psum_scatter(out_BTD, expert_axes, scatter_dimension=0, tiled=True)
    elif expert_axes:
        out_BTD = jax.lax.psum(out_BTD, expert_axes)
    return jax.lax.psum(out_BTD, tensor_axes) if tensor_axes else out_BTD
