"""Conversion between a module and its parameters, a plain nested dictionary of arrays.

All code that trains, saves or shards parameters uses the dictionary. The module is built again from the dictionary
inside ``jit``, where this costs nothing.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from lmjax.parallel.mesh import named_sharding
from lmjax.types import PyTree

Params = dict[str, Any]
Leaves = dict[str, Any]


def named_leaves(tree: PyTree) -> Leaves:
    """Returns the leaves of a tree by dotted path (``params.blocks.mlp.up``), whatever containers hold them."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    assert len(named) == len(leaves), "two leaves share a dotted path"
    return named


@dataclasses.dataclass(frozen=True, eq=False)
class ModuleSpec:
    """A module without the values of its parameters.

    Attributes:
      construct: makes the module from a PRNG key.
      graphdef: the module's static part.
      shapes: the parameters as ``ShapeDtypeStruct``.
      axes: a tree like the parameters, with the logical names of each parameter's dimensions.
      kinds: a tree like the parameters, with each parameter's kind: ``matrix``, ``embedding``, ``norm`` or ``bias``.
      place: the key under which all parameters lie, see :meth:`under`; None if there is no such key.
    """

    construct: Callable[[jax.Array], nnx.Module]
    graphdef: Any
    treedef: Any
    shapes: Params
    axes: Params
    kinds: Params
    place: str | None = None

    def under(self, place: str) -> "ModuleSpec":
        """Returns the spec of the same module with its parameters under one more key, ``{place: params}``."""
        shapes, axes, kinds = ({place: tree} for tree in (self.shapes, self.axes, self.kinds))
        return dataclasses.replace(self, place=place, shapes=shapes, axes=axes, kinds=kinds)

    def bind(self, params: Params) -> Any:
        """Returns the module with the values ``params``."""
        # One more key around all parameters does not change the order of the leaves.
        return nnx.merge(self.graphdef, jax.tree.unflatten(self.treedef, jax.tree.leaves(params)))

    def init(self, key: jax.Array) -> Params:
        """Returns initial parameters; in ``jit`` with ``out_shardings`` they are sharded from the start."""
        params = pure_params(self.construct(key))
        return params if self.place is None else {self.place: params}

    def shardings(self, mesh: Mesh) -> Params:
        """Returns the sharding of each parameter, by the rules of :mod:`lmjax.parallel.mesh`."""
        return jax.tree.map(
            lambda shape, axes: named_sharding(axes, shape.shape, mesh),
            self.shapes,
            self.axes,
        )


def module_spec(construct: Callable[[jax.Array], nnx.Module]) -> ModuleSpec:
    """Returns a description of the module that ``construct`` builds, without building it.

    A parameter that has one dimension more than it names is a stack of layers. Its first dimension gets the name
    ``"layers"``.
    """
    abstract = nnx.eval_shape(lambda: construct(jax.random.key(0)))
    graphdef, state = nnx.split(abstract)
    treedef = jax.tree.structure(state)
    shapes = _pure(state)
    variables = jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    leaves, structure = jax.tree.flatten(shapes)
    axes = [
        ("layers",) * (leaf.ndim - len(variable.axes)) + variable.axes
        for leaf, variable in zip(leaves, variables, strict=True)
    ]
    return ModuleSpec(
        construct=construct,
        graphdef=graphdef,
        treedef=treedef,
        shapes=shapes,
        axes=jax.tree.unflatten(structure, axes),
        kinds=jax.tree.unflatten(structure, [variable.kind for variable in variables]),
    )


def pure_params(module: nnx.Module) -> Params:
    """Returns the parameters of a module, as :meth:`ModuleSpec.bind` takes them."""
    return _pure(nnx.state(module))


def _pure(state: nnx.State) -> Params:
    def with_text_keys(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        # Positions in lists become text, padded with zeros so that sorting keeps their order.
        return {f"{k:03d}" if isinstance(k, int) else k: with_text_keys(v) for k, v in tree.items()}

    return with_text_keys(nnx.to_pure_dict(state))
