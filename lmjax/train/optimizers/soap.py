"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, algorithm 3).

Axes: S matrices of a stack, M inputs, N outputs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.tree

from lmjax.train.optimizers.adamw import AdamW
from lmjax.train.optimizers.hidden_matrices import MatrixAxes, as_matrices, by_rule, matrices_read_as, matrix_axes
from lmjax.types import PyTree


class SoapState(NamedTuple):
    """The state that is kept for hidden matrices between steps. A side that is too large to be turned has None.

    Attributes:
      steps: the number of steps done.
      momentum: the mean gradient.
      squares: the mean squared gradient in the eigenbases.
      input_products: the mean of ``G G^T`` of each matrix, [..., M, M].
      output_products: the mean of ``G^T G``, [..., N, N].
      input_basis: the eigenvectors of ``input_products``, in columns.
      output_basis: the eigenvectors of ``output_products``, in columns.
    """

    steps: jax.Array
    momentum: PyTree
    squares: PyTree
    input_products: PyTree
    output_products: PyTree
    input_basis: PyTree
    output_basis: PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class SOAP(AdamW):
    """SOAP for hidden matrices, AdamW for all other parameters: embeddings, head, norms, biases.

    The first step finds the eigenbases of its gradient and leaves the matrices as they are: in these bases the gradient
    is diagonal, and all else would be rounding errors divided by their own size. Afterwards the bases follow by one
    step of orthogonal iteration every ``basis_every`` steps. Each layer and each expert has bases of its own; all heads
    are one matrix.
    """

    learning_rate: float = 3e-3
    """Peak learning rate, which the schedule multiplies."""
    beta1: float = 0.95
    """Decay of the mean of the gradient."""
    product_beta: float = 0.95
    """Decay of the mean products that the eigenbases are of."""
    basis_every: int = 10
    """Steps from one change of the bases to the next."""
    largest_side: int = 8192
    """A side of a matrix with more dimensions than this keeps its own basis, which saves its products."""

    follows_width: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        self._check_decay_rate("product_beta")
        self._check_above_zero("basis_every", "largest_side")

    def rule(self, kind: str, axes: Sequence[str | None]) -> str:
        """Returns ``SOAP`` for hidden matrices, else ``AdamW``."""
        return "AdamW" if matrix_axes(kind, axes) is None else "SOAP"

    def direction(self, kinds: PyTree, axes: PyTree) -> optax.GradientTransformation:
        """Returns SOAP for hidden matrices and AdamW for the rest, each without its learning rate."""
        adamw = super().direction(kinds, axes)
        return by_rule(self._soap(matrices_read_as(kinds, axes)), adamw, kinds=kinds, axes=axes)

    def _soap(self, read_as: list[MatrixAxes]) -> optax.GradientTransformation:
        moment_dtype = None if self.moment_dtype is None else jnp.dtype(self.moment_dtype)

        def init(params):
            leaves, structure = jax.tree.flatten(params)

            def products(side: int) -> Any:
                shapes = [_side(leaf, axes, side) for leaf, axes in zip(leaves, read_as, strict=True)]
                small = [jnp.zeros(shape) if shape[-1] <= self.largest_side else None for shape in shapes]
                return jax.tree.unflatten(structure, small)

            momentum = optax.tree.zeros_like(params, dtype=moment_dtype)
            squares = optax.tree.zeros_like(params)
            both = products(1), products(2)
            return SoapState(jnp.zeros((), jnp.int32), momentum, squares, *both, *jax.tree.map(jnp.copy, both))

        def update(grads, state, params=None):
            del params
            leaves, structure = jax.tree.flatten(grads)
            kept = [structure.flatten_up_to(tree) for tree in state[1:]]  # type: ignore[attr-defined]
            done = [
                self._step(state.steps, axes, *of_leaf) for axes, *of_leaf in zip(read_as, leaves, *kept, strict=True)
            ]
            columns = zip(*done, strict=True) if done else [()] * 7
            updates, *kept = (jax.tree.unflatten(structure, column) for column in columns)
            return updates, SoapState(optax.safe_increment(state.steps), *kept)

        return optax.GradientTransformation(init, update)

    def _step(
        self, count: jax.Array, read_as: MatrixAxes, grad: jax.Array, momentum: jax.Array, squares: jax.Array,
        *sides: jax.Array | None,
    ) -> tuple:  # fmt: skip
        """Returns the direction of one parameter, and its six arrays of state after the step."""
        grad_SMN = as_matrices(grad, read_as)
        in_products, out_products, in_basis, out_basis = (
            None if side is None else side.reshape(len(grad_SMN), *side.shape[-2:]) for side in sides
        )
        begun = count > 0
        momentum = jnp.where(begun, self.beta1 * momentum + (1 - self.beta1) * grad, momentum).astype(momentum.dtype)
        turned_SMN = _turned(grad_SMN, in_basis, out_basis)
        mean_SMN = _turned(as_matrices(momentum, read_as).astype(grad.dtype), in_basis, out_basis)
        squares_SMN = as_matrices(squares, read_as)
        squares_SMN = jnp.where(begun, self.beta2 * squares_SMN + (1 - self.beta2) * jnp.square(turned_SMN), 0)
        done = jnp.maximum(count, 1)
        unbiased = jnp.sqrt(squares_SMN / (1 - self.beta2**done))
        direction_SMN = mean_SMN / (1 - self.beta1**done) / (unbiased + self.epsilon)
        direction = _turned_back(direction_SMN, in_basis, out_basis).reshape(grad.shape).astype(grad.dtype)
        in_products = self._averaged(count, in_products, grad_SMN @ grad_SMN.swapaxes(1, 2))
        out_products = self._averaged(count, out_products, grad_SMN.swapaxes(1, 2) @ grad_SMN)
        in_basis, out_basis = self._basis(count, in_products, in_basis), self._basis(count, out_products, out_basis)
        after = (
            None if side is None or new is None else new.reshape(side.shape)
            for side, new in zip(sides, (in_products, out_products, in_basis, out_basis), strict=True)
        )
        return direction, momentum, squares_SMN.reshape(squares.shape), *after

    def _averaged(self, count: jax.Array, products: jax.Array | None, new: jax.Array) -> jax.Array | None:
        """Returns the running mean after this step; it begins with the first products."""
        if products is None:
            return None
        return jnp.where(count == 0, new, self.product_beta * products + (1 - self.product_beta) * new)

    def _basis(self, count: jax.Array, products: jax.Array | None, basis: jax.Array | None) -> jax.Array | None:
        if products is None or basis is None:
            return None
        stays, begins, follows = 0, 1, 2
        turn = jnp.where(count % self.basis_every == 0, follows, stays)
        return jax.lax.switch(
            jnp.where(count == 0, begins, turn),
            (
                lambda _, basis: basis,
                # The largest comes first, because orthogonal iteration keeps eigenvectors in that order.
                lambda products, _: jnp.linalg.eigh(products)[1][..., ::-1],
                lambda products, basis: jnp.linalg.qr(products @ basis)[0],
            ),
            products,
            basis,
        )


def _side(leaf: jax.Array, read_as: MatrixAxes, side: int) -> tuple[int, ...]:
    """Returns the shape of the products of the inputs (side 1) or outputs (side 2) of a parameter's matrices."""
    size = jax.eval_shape(lambda array: as_matrices(array, read_as), leaf).shape[side]
    return (*leaf.shape[: read_as[0]], size, size)


def _turned(matrices_SMN: jax.Array, in_basis: jax.Array | None, out_basis: jax.Array | None) -> jax.Array:
    """Returns the matrices expressed in the eigenbases."""
    turned_SMN = matrices_SMN if in_basis is None else in_basis.swapaxes(1, 2) @ matrices_SMN
    return turned_SMN if out_basis is None else turned_SMN @ out_basis


def _turned_back(matrices_SMN: jax.Array, in_basis: jax.Array | None, out_basis: jax.Array | None) -> jax.Array:
    """Returns matrices out of the eigenbases: the inverse of :func:`_turned`."""
    turned_SMN = matrices_SMN if in_basis is None else in_basis @ matrices_SMN
    return turned_SMN if out_basis is None else turned_SMN @ out_basis.swapaxes(1, 2)
