"""Muon: a momentum whose matrices are made orthogonal (Jordan et al. 2024), and NorMuon (Li et al. 2025).

Axes: S matrices of a stack, M inputs, N outputs.

    momentum  = beta momentum + (1 - beta) gradient
    blend     = beta momentum + (1 - beta) gradient       (Nesterov; else the momentum)
    direction = scale * orthogonal(blend)

optax has a Muon as well. This one computes in bfloat16 where that is fast, divides whole matrices over the devices,
and normalises neurons; where both can, they agree.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.tree

from lmjax.train.optimizers.adamw import AdamW
from lmjax.train.optimizers.hidden_matrices import MatrixAxes, as_matrices, by_rule, matrices_read_as, matrix_axes
from lmjax.train.optimizers.newton_schulz import Arithmetic, orthogonalized
from lmjax.types import PyTree


class MuonState(NamedTuple):
    """The state that is kept for hidden matrices between steps; ``neurons`` is None without NorMuon."""

    momentum: PyTree
    neurons: PyTree


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
        """Returns the factor that turns ``learning_rate`` into AdamW's learning rate; for hidden matrices it is 1."""
        if matrix_axes(kind, axes) is not None or self.adamw_learning_rate is None:
            return 1.0
        return self.adamw_learning_rate / self.learning_rate

    def direction(self, kinds: PyTree, axes: PyTree) -> optax.GradientTransformation:
        """Returns Muon for hidden matrices and AdamW for the rest, each without its learning rate."""
        adamw = super().direction(kinds, axes)
        return by_rule(self._muon(matrices_read_as(kinds, axes)), adamw, kinds=kinds, axes=axes)

    def _muon(self, read_as: list[MatrixAxes]) -> optax.GradientTransformation:
        moment_dtype = None if self.moment_dtype is None else jnp.dtype(self.moment_dtype)

        def init(params):
            momentum = optax.tree.zeros_like(params, dtype=moment_dtype)
            if not self.normalize_neurons:
                return MuonState(momentum, None)
            leaves, structure = jax.tree.flatten(params)
            shapes = [_neurons_shape(leaf.shape, axes) for leaf, axes in zip(leaves, read_as, strict=True)]
            return MuonState(momentum, jax.tree.unflatten(structure, [jnp.zeros(shape) for shape in shapes]))

        def update(grads, state, params=None):
            del params

            def blend(mean: jax.Array, grad: jax.Array) -> jax.Array:
                return self.momentum * mean + (1 - self.momentum) * grad

            momentum = jax.tree.map(lambda mean, grad: blend(mean, grad).astype(mean.dtype), state.momentum, grads)
            blended = jax.tree.map(blend, momentum, grads) if self.nesterov else momentum
            leaves, structure = jax.tree.flatten(blended)
            stacks = [as_matrices(leaf, axes) for leaf, axes in zip(leaves, read_as, strict=True)]
            stacks = orthogonalized(stacks, steps=self.newton_schulz_steps, arithmetic=self.newton_schulz_dtype)
            neurons = state.neurons
            if self.normalize_neurons:
                stacks, neurons = self._with_even_neurons(stacks, neurons)
            pairs = zip(stacks, leaves, strict=True)
            scaled = [(self._factor(stack) * stack).reshape(leaf.shape).astype(leaf.dtype) for stack, leaf in pairs]
            return jax.tree.unflatten(structure, scaled), MuonState(momentum, neurons)

        return optax.GradientTransformation(init, update)

    def _with_even_neurons(self, stacks: list[jax.Array], neurons: PyTree) -> tuple[list[jax.Array], PyTree]:
        """Returns the matrices with normalised neurons, and the running means after this step."""
        means, structure = jax.tree.flatten(neurons)
        pairs = [
            self._normalized(stack, mean.reshape(len(stack), 1, -1)) for stack, mean in zip(stacks, means, strict=True)
        ]
        after = [mean_S1N.reshape(old.shape) for (_, mean_S1N), old in zip(pairs, means, strict=True)]
        return [stack for stack, _ in pairs], jax.tree.unflatten(structure, after)

    def _normalized(self, stack_SMN: jax.Array, mean_S1N: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the matrices with normalised columns, and the running means of the columns' squares (algorithm 1).

        Each column is divided by the root of its running mean; the whole is then as large as an orthogonal matrix.
        """
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


def _neurons_shape(shape: tuple[int, ...], read_as: MatrixAxes) -> tuple[int, ...]:
    """Returns the shape of an array with one number for each output; the inputs' dimensions have size 1."""
    depth, num_in = read_as
    return (*shape[:depth], *(1,) * num_in, *shape[depth + num_in :])
