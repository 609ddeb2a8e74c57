"""The choice of experts for each token, and the losses and statistics of the router.

Axes: E experts, J choices of a token, G groups of experts, X groups that are chosen.

    logits = x W (+ b)                            always in float32 (Fedus et al. 2022, section 2.4)
    scores = softmax(logits)  or  sigmoid(logits)
    chosen = the J highest of  scores + bias      of all experts, or of those in the best groups
    gates  = scale * scores[chosen]  (/ their sum)

With softmax scores and normalised gates this is Mixtral's softmax over the chosen logits.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from lmjax.field_types import check_literals

Scores = Literal["softmax", "sigmoid"]

BIAS_KIND = "router_bias"
"""The kind of parameters that are changed to even out the experts' loads, not by a gradient of the loss."""

_BIAS_GRADIENT = 1e-6
"""The factor of the load when it is returned in the place of a gradient. Only its sign is used; the factor is small so
that it does not change the norm of the gradient."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """A mixture of experts in place of a feed-forward layer; the defaults are Mixtral's but for the number."""

    number: int = 0
    """Experts of a layer; 0 is an ordinary feed-forward layer."""
    per_token: int = 2
    """Experts each token goes to."""
    width: int | None = None
    """Hidden width of an expert; that of an ordinary feed-forward layer when unset."""
    shared: int = 0
    """Experts of that width that every token goes to, beside the chosen ones (DeepSeekMoE, section 3.2)."""
    every: int = 1
    """Every n-th layer has experts, the n-th being the first (GShard, Switch: 2)."""
    first_dense: int = 0
    """The first n layers have no experts (DeepSeek-V3: 3)."""
    scores: Scores = "softmax"
    """What makes scores of router logits: softmax over all experts, or sigmoid of each (DeepSeek-V3)."""
    router_bias: bool = False
    """A learned bias on the router's logits (gpt-oss); `balance_bias` is another one."""
    groups: int = 1
    """Groups of experts, of which a token chooses first (DeepSeek-V3, section 2.1.2: 8)."""
    groups_per_token: int = 1
    """Groups among whose experts a token then chooses: those with the highest sums of their two best scores
    (DeepSeek-V3: 4)."""
    normalize_gates: bool = True
    """Gates of a token are divided by their sum (Mixtral, Qwen 3, DeepSeek-V3); Switch, DeepSeekMoE: False."""
    gate_scale: float = 1.0
    """Factor of the gates (DeepSeek-V3: 2.5)."""
    capacity_factor: float | None = None
    """Room of an expert in each row, in units of an even share of its tokens; those over it skip the layer (GShard).
    None drops none."""
    balance_loss: float = 0.01
    """Weight of the load-balance loss of each layer, of each row by itself."""
    router_z_loss: float = 0.0
    """Weight of the squared log-normaliser of the router of each layer (ST-MoE: 0.001)."""
    balance_bias: bool = False
    """A bias on the scores for choosing alone, moved against each expert's load by `optimizer.router_bias_rate` a step
    (DeepSeek-V3, section 2.1.2)."""

    def __post_init__(self):
        check_literals(self, "model.experts.")
        if self.number < 0:
            raise ValueError(f"model.experts.number={self.number}: must be positive, or 0 for no experts")
        if self.number and not 1 <= self.per_token <= self.number:
            raise ValueError(
                f"model.experts.per_token={self.per_token}: must be from 1 to model.experts.number={self.number}"
            )
        for name, least in (("shared", 0), ("every", 1), ("first_dense", 0), ("balance_loss", 0), ("router_z_loss", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"model.experts.{name}={getattr(self, name)}: must be at least {least}")
        for name in ("width", "gate_scale", "capacity_factor"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"model.experts.{name}={getattr(self, name)}: must be positive")
        self._check_groups()
        if self.number > 1 and self.per_token == 1 and self.normalize_gates:
            raise ValueError(
                "model.experts.per_token=1 with normalize_gates=True: a single gate divided by itself is 1 and teaches "
                "the router nothing: set normalize_gates to False"
            )

    def _check_groups(self):
        if self.groups < 1 or ((self.number % self.groups or self.number // self.groups < 2) and self.groups > 1):
            raise ValueError(
                f"model.experts.groups={self.groups}: must divide model.experts.number={self.number} into groups of at "
                f"least 2"
            )
        within = self.groups_per_token * self.number // self.groups
        if not 1 <= self.groups_per_token <= self.groups or (self.number and within < self.per_token):
            raise ValueError(
                f"model.experts.groups_per_token={self.groups_per_token}: must be from 1 to model.experts.groups="
                f"{self.groups}, and have model.experts.per_token={self.per_token} experts among them"
            )

    def capacity(self, length: int) -> int:
        """Returns how many tokens of a row of ``length`` tokens an expert has room for."""
        assert self.capacity_factor is not None
        return min(length, math.ceil(self.capacity_factor * self.per_token * length / self.number))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Routing:
    """The statistics of the routing in each row; leading axes are layers. Padding is not counted.

    They are computed for each row, not for a batch, so that their mean does not depend on microbatches and devices.

    Attributes:
      balance_B: ``E sum_e f_e P_e`` with ``f_e`` the share of the row's choices that are e and ``P_e`` the row's mean
        of e's score over the sum of scores; 1 for an even load (Fedus et al. 2022, eq. 4; by sequence: DeepSeek-V3,
        eq. 17 to 20).
      router_z_B: mean of ``logsumexp(logits) ** 2`` (ST-MoE, Zoph et al. 2022, eq. 5).
      dropped_B: share of the choices that found no place at their expert.
      max_load_B: ``E max_e f_e``, the load of the busiest expert relative to an even load.
      bias_B: 0; its gradient with respect to the bias is the load ``f_e - 1 / E`` times a factor.
    """

    balance_B: jax.Array
    router_z_B: jax.Array
    dropped_B: jax.Array
    max_load_B: jax.Array
    bias_B: jax.Array


def joined(routings: list[Routing | None]) -> Routing | None:
    """Returns the records of single layers and of stacks of layers, joined along one axis of layers; None if none."""
    found = [routing for routing in routings if routing is not None]
    if not found:
        return None
    return jax.tree.map(lambda *leaves: jnp.concatenate([jnp.atleast_2d(leaf) for leaf in leaves]), *found)


def by_row(routing: Routing | None, num_rows: int) -> Routing | None:
    """Returns the mean of each statistic over the texts of each batch row, [layers, num_rows].

    Args:
      routing: statistics [layers, C num_rows]; the C texts of a row are side by side.
      num_rows: number of rows of the batch.
    """
    return jax.tree.map(lambda leaf: leaf.reshape(len(leaf), num_rows, -1).mean(axis=2), routing)


def choose(
    config: ExpertsConfig, logits_BTE: jax.Array, bias_E: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Chooses the experts of each token.

    Returns:
      chosen_BTJ (int32, the best first), gates_BTJ, and scores_BTE that sum to 1.
    """
    score = jax.nn.softmax if config.scores == "softmax" else jax.nn.sigmoid
    scores_BTE = score(logits_BTE)
    ranked_BTE = jax.lax.stop_gradient(scores_BTE)
    if bias_E is not None:
        ranked_BTE = ranked_BTE + jax.lax.stop_gradient(bias_E)[None, None, :]
    if config.groups > 1:
        ranked_BTE = _within_best_groups(ranked_BTE, config.groups, config.groups_per_token)
    chosen_BTJ = _highest(ranked_BTE, config.per_token)
    gates_BTJ = jnp.take_along_axis(scores_BTE, chosen_BTJ, axis=-1)
    if config.normalize_gates:
        gates_BTJ = gates_BTJ / (gates_BTJ.sum(axis=-1, keepdims=True) + 1e-20)
    if config.scores == "sigmoid":
        scores_BTE = scores_BTE / (scores_BTE.sum(axis=-1, keepdims=True) + 1e-20)
    return chosen_BTJ, config.gate_scale * gates_BTJ, scores_BTE


def _within_best_groups(ranked_BTE: jax.Array, groups: int, number: int) -> jax.Array:
    """Returns the values in the ``number`` groups with the highest sums of their two best values; -inf elsewhere."""
    in_groups = ranked_BTE.reshape(*ranked_BTE.shape[:2], groups, -1)
    place = jnp.arange(in_groups.shape[-1])[None, None, None, :]
    without_best = jnp.where(place == jnp.argmax(in_groups, axis=-1, keepdims=True), -jnp.inf, in_groups)
    chosen_BTX = _highest(in_groups.max(axis=-1) + without_best.max(axis=-1), number)
    is_chosen_BTG = jnp.any(chosen_BTX[..., None] == jnp.arange(groups)[None, None, None, :], axis=2)
    return jnp.where(is_chosen_BTG[..., None], in_groups, -jnp.inf).reshape(ranked_BTE.shape)


def _highest(values_BTE: jax.Array, number: int) -> jax.Array:
    """Returns the indices of the highest values, in descending order, int32 [B, T, number].

    Of equal values, the first comes first.
    """
    # lax.top_k is not used, because every device would first gather the values of all devices.
    index_11E = jnp.arange(values_BTE.shape[-1], dtype=jnp.int32)[None, None, :]
    found = []
    for _ in range(number):
        found.append(jnp.argmax(values_BTE, axis=-1).astype(jnp.int32))
        values_BTE = jnp.where(index_11E == found[-1][..., None], -jnp.inf, values_BTE)
    return jnp.stack(found, axis=-1)


def report(
    logits_BTE: jax.Array,
    scores_BTE: jax.Array,
    chosen_BTJ: jax.Array,
    bias_E: jax.Array | None,
    *,
    valid_BT: jax.Array,
    kept_BTJ: jax.Array | None,
) -> Routing:
    """Returns the statistics of a choice of experts.

    ``valid_BT`` is False on padding; ``kept_BTJ`` is False for a choice that found no place, and None if all found one.
    """
    num_choices, num_experts = chosen_BTJ.shape[-1], logits_BTE.shape[-1]
    count_B = jnp.maximum(valid_BT.sum(axis=1), 1).astype(jnp.float32)

    def mean(values: jax.Array) -> jax.Array:
        """Returns the mean of [B, T, ...] over the tokens that are not padding, [B, ...]."""
        valid = valid_BT.reshape(*valid_BT.shape, *(1,) * (values.ndim - 2))
        return jnp.sum(values * valid, axis=1) / count_B.reshape(-1, *(1,) * (values.ndim - 2))

    chosen_BTE = jax.nn.one_hot(chosen_BTJ, num_experts, dtype=jnp.float32).sum(axis=2)
    load_BE = mean(chosen_BTE) / num_choices
    bias_B = jnp.zeros_like(count_B)
    if bias_E is not None:
        moved_E = _BIAS_GRADIENT * (bias_E - jax.lax.stop_gradient(bias_E))
        bias_B = jnp.sum(moved_E[None, :] * (load_BE - 1 / num_experts), axis=-1)
    kept_B = jnp.ones_like(count_B) if kept_BTJ is None else mean(kept_BTJ.astype(jnp.float32)).mean(axis=-1)
    return Routing(
        balance_B=num_experts * jnp.sum(load_BE * mean(scores_BTE), axis=-1),
        router_z_B=mean(jnp.square(jax.nn.logsumexp(logits_BTE, axis=-1))),
        dropped_B=jnp.where(valid_BT.any(axis=1), 1 - kept_B, 0.0),
        max_load_B=num_experts * load_BE.max(axis=-1),
        bias_B=bias_B,
    )


def routing_terms(config: ExpertsConfig, routing: Routing | None, weights_B: jax.Array) -> dict[str, jax.Array]:
    """Returns the router's loss, which is a sum over all layers, and metrics, which are means over the layers.

    All of them are sums over the rows, weighted by the rows' weights.

    Args:
      config: the weights of the losses.
      routing: statistics [L', B] of the L' layers with experts; None without experts, which gives no terms.
      weights_B: weight of each row.
    """
    if routing is None:
        return {}

    def total(values_LB: jax.Array) -> jax.Array:
        return jnp.sum(values_LB * weights_B[None, :])

    loss = config.balance_loss * total(routing.balance_B) + config.router_z_loss * total(routing.router_z_B)
    shown = {
        "balance": routing.balance_B,
        "router_z": routing.router_z_B,
        "dropped": routing.dropped_B,
        "max_load": routing.max_load_B,
    }
    means = {f"experts/{name}": total(values_LB) / len(values_LB) for name, values_LB in shown.items()}
    return {"experts/loss": loss + total(routing.bias_B), **jax.lax.stop_gradient(means)}


ROUTING_MEASURES = frozenset(f"experts/{name}" for name in ("balance", "router_z", "dropped", "max_load"))
"""The names of the terms of :func:`routing_terms` that are only metrics, not losses."""
