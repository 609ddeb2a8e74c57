"""Adafactor (Shazeer & Stern 2018)."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from lmjax.train.optimizers.optimizer import Optimizer
from lmjax.train.optimizers.stacking import is_axes, num_stacking_axes, vmapped
from lmjax.types import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """The direction is the gradient over the root of a factored mean square, scaled by the parameter's RMS.

    ``learning_rate`` is therefore relative to the size of a parameter.
    """

    min_factored_size: int = 128
    """Smallest dimension whose second moment is kept as rows and columns."""

    def __post_init__(self):
        super().__post_init__()
        self._check_above_zero("min_factored_size")

    def direction(self, kinds: PyTree, axes: PyTree) -> optax.GradientTransformation:
        """Returns Adafactor's direction, which treats each layer of a stack by itself."""
        del kinds
        return _scale_by_adafactor(axes, self.min_factored_size)


def _scale_by_adafactor(axes: PyTree, min_factored_size: int) -> optax.GradientTransformation:
    """Returns Adafactor's direction (algorithm 4), which treats each layer of a stack by itself.

    optax factors the two largest dimensions and clips by the RMS of the whole array. If parameters are stacked over
    layers, one of these dimensions may be the layers, and the RMS would be that of all layers together.
    """
    layer = optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=min_factored_size),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )
    depths = [num_stacking_axes(names) for names in jax.tree.leaves(axes, is_leaf=is_axes)]

    def init(params):
        leaves, structure = jax.tree.flatten(params)
        moments = [vmapped(lambda p: tuple(layer.init(p)[0][1:]), n)(p) for n, p in zip(depths, leaves, strict=True)]
        columns = zip(*moments, strict=True) if moments else ((), (), ())
        v_row, v_col, v = (jax.tree.unflatten(structure, column) for column in columns)
        return optax.FactoredState(count=jnp.zeros((), jnp.int32), v_row=v_row, v_col=v_col, v=v)

    def update(grads, state, params=None):
        assert params is not None, "adafactor scales by the parameters: pass them to update"

        def layer_update(grad, row, column, full, param):
            before = (
                optax.FactoredState(state.count, row, column, full),
                optax.EmptyState(),
                optax.EmptyState(),
            )
            direction, (after, *_) = layer.update(grad, before, param)
            return direction, after.v_row, after.v_col, after.v

        leaves = map(jax.tree.leaves, (grads, state.v_row, state.v_col, state.v, params))
        results = [vmapped(layer_update, n)(*leaf) for n, *leaf in zip(depths, *leaves, strict=True)]
        structure = jax.tree.structure(grads)
        updates, v_row, v_col, v = (jax.tree.unflatten(structure, column) for column in zip(*results, strict=True))
        return updates, optax.FactoredState(optax.safe_increment(state.count), v_row, v_col, v)

    return optax.GradientTransformation(init, update)
