"""The layout of the optimizer's state on the devices: it is that of the parameters the state belongs to."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lmjax.types import PyTree


def state_shardings(
    optimizer: optax.GradientTransformation, params: PyTree, param_shardings: PyTree, mesh: Mesh
) -> Any:
    """Returns the sharding of each array of the optimizer's state.

    A moment is split like its parameter; other arrays are on all devices. Without these ``out_shardings``,
    ``jax.jit(optimizer.init)`` would replicate every moment. An array of the state belongs to the parameter whose path
    is the end of its own path: ``0.mu.blocks.up`` belongs to ``blocks.up``.

    Args:
      optimizer: from :func:`~lmjax.train.optimizers.build_optimizer`.
      params: the parameters that the optimizer is given, as arrays or ``jax.ShapeDtypeStruct``.
      param_shardings: a tree like ``params``, with a ``NamedSharding`` on ``mesh`` for each.
      mesh: the mesh of the run.

    Returns:
      A ``NamedSharding`` for each leaf of ``optimizer.init(params)``.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    layouts = zip(jax.tree.leaves(params), jax.tree.leaves(param_shardings), strict=True)
    known = {path: (leaf.shape, sharding.spec) for path, (leaf, sharding) in zip(paths, layouts, strict=True)}

    def layout(path: tuple, leaf: Any) -> NamedSharding:
        belongs_to = [path[start:] for start in range(len(path)) if path[start:] in known]
        spec = moment_spec(leaf.shape, *known[belongs_to[0]]) if belongs_to else PartitionSpec()
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(layout, jax.eval_shape(optimizer.init, params))


def moment_spec(moment: tuple[int, ...], param: tuple[int, ...], spec: PartitionSpec) -> PartitionSpec:
    """Returns the layout of an array of the state, given the shape and the layout of its parameter.

    A moment of the parameter's shape is split as the parameter is. If some dimensions have size 1 or one is missing,
    the others are split as in the parameter. Square matrices, such as the products of a parameter's rows, are
    split along their own rows as the parameter's dimension of that size is.
    """
    entries = (*spec, *(None,) * (len(param) - len(spec)))
    if moment == param:
        return spec
    if len(moment) == len(param) and all(m in (1, p) for m, p in zip(moment, param, strict=True)):
        return PartitionSpec(*(e if m == p else None for m, p, e in zip(moment, param, entries, strict=True)))
    dropped = [i for i in range(len(param)) if param[:i] + param[i + 1 :] == moment]
    if not dropped and len(moment) >= 2 and moment[-2] == moment[-1] and moment[:-2] == param[: len(moment) - 2]:
        depth = len(moment) - 2
        return PartitionSpec(*entries[:depth], _entry_of_size(moment[-1], param[depth:], entries[depth:]), None)
    candidates = [entries[:i] + entries[i + 1 :] for i in dropped] or [(None,) * len(moment)]
    # If dimensions are equal, the shape does not say which one is missing: keep only what is right in each case.
    return PartitionSpec(*(same[0] if len(set(same)) == 1 else None for same in zip(*candidates, strict=True)))


def _entry_of_size(size: int, shape: tuple[int, ...], entries: Sequence) -> Any:
    """Returns the layout of the dimension of this size, or of the first of several that are flattened into it."""
    stretches = [(start, end) for start in range(len(shape)) for end in range(start + 1, len(shape) + 1)]
    found = [entries[start] for start, end in stretches if math.prod(shape[start:end]) == size]
    return found[0] if found else None
