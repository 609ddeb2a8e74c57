"""Muon: a momentum whose matrices are made orthogonal (Jordan et al. 2024), and NorMuon (Li et al. 2025).

Legend of this module: S matrices of a stack, M inputs, N outputs.

    momentum  = beta momentum + (1 - beta) gradient
    blend     = beta momentum + (1 - beta) gradient       (Nesterov; else the momentum)
    direction = scale * orthogonal(blend)

optax has a Muon as well. This one computes in bfloat16 where that is fast, divides whole matrices over the devices,
and normalises neurons; where both can, they agree.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.tree

from lmjax.train.optimizers.adamw import AdamW
from lmjax.train.optimizers.kinds import MATRIX_KINDS
from lmjax.train.optimizers.newton_schulz import Arithmetic, orthogonalized
from lmjax.train.optimizers.stacking import STACKING_AXES
from lmjax.types import PyTree

HEAD_AXES = ("heads", "kv_heads", "groups")
"""Axes that make one side of a matrix together with the axis after them: heads and what each of them has."""
HIDDEN_AXES = (*HEAD_AXES, "head_width", "rope_width", "state", "embed", "mlp", "latent", "rank", "mixes", "joined")
"""Axes of hidden matrices. A matrix with any other axis, such as the vocabulary, a router's choices, classes or input
features, is updated by AdamW."""


class MuonState(NamedTuple):
    """What is kept between steps; the trees have None for parameters that the other rule updates."""

    momentum: PyTree
    neurons: PyTree
    others: Any


def matrix_axes(kind: str, axes: Sequence[str | None]) -> tuple[int, int] | None:
    """Returns how many leading axes of a hidden matrix stack it, and how many then are its inputs; else None.

    The axes that are left are its outputs: ``("layers", "embed", "heads", "head_width")`` is a stack of matrices from
    ``embed`` to all heads, and its result (1, 1).
    """
    depth = sum(1 for _ in itertools.takewhile(lambda name: name in (*STACKING_AXES, "mixes"), axes))
    own = axes[depth:]
    if kind not in MATRIX_KINDS or not set(own) <= set(HIDDEN_AXES):
        return None
    num_in = 2 if own and own[0] in HEAD_AXES else 1
    return (depth, num_in) if num_in < len(own) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon(AdamW):
    """Muon for hidden matrices, AdamW for all other parameters: embeddings, head, norms, biases.

    Each matrix is the whole map from a layer's inputs to its outputs: all heads together, each layer and each expert by
    itself. ``beta1``, ``beta2`` and ``epsilon`` are AdamW's.
    """

    momentum: float = 0.95
    """Decay of the mean of the gradient of hidden matrices."""
    nesterov: bool = True
    """Whether the gradient itself is blended into the momentum before it is made orthogonal."""
    scale: Literal["rms", "spectral"] = "rms"
    """Factor of the orthogonal matrix of M inputs and N outputs. `rms` is 0.2 sqrt(max(M, N)): updates are as large as
    AdamW's, whose learning rate and weight decay serve (Liu et al. 2025). `spectral` is sqrt(max(1, N / M)): outputs
    change as much at all widths (Jordan et al. 2024)."""
    newton_schulz_steps: int = 5
    """Steps of the iteration that makes a matrix orthogonal."""
    newton_schulz_dtype: Arithmetic = "auto"
    """Arithmetic of its products; `auto` is float32 on CPUs and bfloat16 elsewhere."""
    normalize_neurons: bool = False
    """NorMuon: divide each output's column by the root of a running mean of its squares."""
    neuron_beta: float = 0.95
    """Decay of that mean."""
    adamw_learning_rate: float | None = None
    """Peak learning rate of the parameters that AdamW updates; `learning_rate` when unset."""

    follows_width: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        self._check_decay_rate("momentum", "neuron_beta")
        self._check_above_zero("newton_schulz_steps", "adamw_learning_rate")

    def rule(self, kind: str, axes: Sequence[str | None]) -> str:
        """Returns ``Muon`` or ``NorMuon`` for hidden matrices, else ``AdamW``."""
        if matrix_axes(kind, axes) is None:
            return "AdamW"
        return "NorMuon" if self.normalize_neurons else "Muon"

    def rate_factor(self, kind: str, axes: Sequence[str | None]) -> float:
        """Returns the share of the learning rate that AdamW has; 1 for hidden matrices."""
        if matrix_axes(kind, axes) is not None or self.adamw_learning_rate is None:
            return 1.0
        return self.adamw_learning_rate / self.learning_rate

    def direction(self, kinds: PyTree, axes: PyTree) -> optax.GradientTransformation:
        """Returns the transformation, which has a :class:`MuonState`."""
        adamw = super().direction(kinds, axes)
        parts = jax.tree.map(lambda kind, names: matrix_axes(kind, names) or (), kinds, axes)
        moment_dtype = None if self.moment_dtype is None else jnp.dtype(self.moment_dtype)

        def matrices(tree: PyTree) -> Any:
            return jax.tree.map(lambda part, leaf: leaf if part else None, parts, tree, is_leaf=_is_part)

        def others(tree: PyTree) -> Any:
            return jax.tree.map(lambda part, leaf: None if part else leaf, parts, tree, is_leaf=_is_part)

        def init(params):
            momentum = optax.tree.zeros_like(matrices(params), dtype=moment_dtype)
            neurons = None
            if self.normalize_neurons:
                neurons = jax.tree.map(_zeros_of_neurons, parts, matrices(params), is_leaf=_is_part)
            return MuonState(momentum, neurons, adamw.init(others(params)))

        def update(grads, state, params=None):
            del params
            rest, adamw_state = adamw.update(others(grads), state.others)
            blend = lambda mean, grad: self.momentum * mean + (1 - self.momentum) * grad  # noqa: E731
            grads = matrices(grads)
            momentum = jax.tree.map(lambda mean, grad: blend(mean, grad).astype(mean.dtype), state.momentum, grads)
            blended = jax.tree.map(blend, momentum, grads) if self.nesterov else momentum
            updates, neurons = self._directions(parts, blended, state.neurons)
            whole = jax.tree.map(
                lambda part, own, other: own if part else other, parts, updates, rest, is_leaf=_is_part
            )
            return whole, MuonState(momentum, neurons, adamw_state)

        return optax.GradientTransformation(init, update)

    def _directions(self, parts: PyTree, blended: PyTree, neurons: PyTree) -> tuple[PyTree, PyTree]:
        """The scaled orthogonal matrices of a tree, and the running means of their neurons."""
        own_parts = [part for part in jax.tree.leaves(parts, is_leaf=_is_part) if part]
        leaves, structure = jax.tree.flatten(blended)
        stacks = [_as_matrices(leaf, part) for leaf, part in zip(leaves, own_parts, strict=True)]
        stacks = orthogonalized(stacks, steps=self.newton_schulz_steps, arithmetic=self.newton_schulz_dtype)
        if self.normalize_neurons:
            before, of_neurons = jax.tree.flatten(neurons)
            means = [mean.reshape(len(stack), 1, -1) for mean, stack in zip(before, stacks, strict=True)]
            pairs = [self._normalized(stack, mean) for stack, mean in zip(stacks, means, strict=True)]
            stacks = [stack for stack, _ in pairs]
            after = [mean.reshape(old.shape) for (_, mean), old in zip(pairs, before, strict=True)]
            neurons = jax.tree.unflatten(of_neurons, after)
        scaled = [self._factor(stack) * stack for stack in stacks]
        back = [stack.reshape(leaf.shape).astype(leaf.dtype) for stack, leaf in zip(scaled, leaves, strict=True)]
        return jax.tree.unflatten(structure, back), neurons

    def _normalized(self, stack_SMN: jax.Array, mean_S1N: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Columns of equal size in the running mean, together as large as an orthogonal matrix (algorithm 1)."""
        square_S1N = jnp.mean(jnp.square(stack_SMN), axis=1, keepdims=True)
        mean_S1N = self.neuron_beta * mean_S1N + (1 - self.neuron_beta) * square_S1N
        even_SMN = stack_SMN / (jnp.sqrt(mean_S1N) + self.epsilon)
        norm_S11 = jnp.linalg.norm(even_SMN, axis=(1, 2), keepdims=True)
        size = math.sqrt(min(stack_SMN.shape[1:]))
        return size * even_SMN / jnp.maximum(norm_S11, self.epsilon), mean_S1N

    def _factor(self, stack_SMN: jax.Array) -> float:
        _, num_in, num_out = stack_SMN.shape
        if self.scale == "rms":
            return 0.2 * math.sqrt(max(num_in, num_out))
        return math.sqrt(max(1.0, num_out / num_in))


def _is_part(node: PyTree) -> bool:
    return isinstance(node, tuple)


def _as_matrices(array: jax.Array, part: tuple[int, int]) -> jax.Array:
    """An array as [S, M, N]."""
    depth, num_in = part
    shape = array.shape
    return array.reshape(
        math.prod(shape[:depth]), math.prod(shape[depth : depth + num_in]), math.prod(shape[depth + num_in :])
    )


def _zeros_of_neurons(part: tuple[int, int] | tuple[()], param: jax.Array | None) -> jax.Array | None:
    """A mean for each output, with dimensions of size 1 in place of the inputs."""
    if not part or param is None:
        return None
    depth, num_in = part
    shape = (*param.shape[:depth], *(1,) * num_in, *param.shape[depth + num_in :])
    return jnp.zeros(shape, jnp.float32)
