"""Models made ready for decoding: their layers unstacked and, on CPUs, their matrices stored as they are read fastest.

It is done once, before the functions that write a few tokens at a time are called. Inside of such a function, each call
would copy all weights.
"""

import functools
from collections.abc import Callable

import jax
from flax import nnx

from lmjax.models.layers import turn_matrices
from lmjax.models.parameters import ModuleSpec, Params, module_spec, pure_params
from lmjax.models.with_extras import WithExtras, model_of
from lmjax.parallel.mesh import current_platform

STACKED = "further_heads"
"""The extra of which the layers are stacked."""


def made_ready(spec: ModuleSpec, params: Params) -> tuple[ModuleSpec, Params]:
    """Returns a module, and its parameters, in the form in which it decodes fastest. It computes the same function.

    Args:
      spec: the module, a :class:`~lmjax.models.transformer.Transformer` alone, or with extras of which each is a list
        of layers, or layers in a stack, that predict further tokens.
      params: its parameters.
    """
    ready, convert = _conversion(spec, current_platform())
    return ready, convert(params)


def ready_spec(spec: ModuleSpec, platform: str) -> ModuleSpec:
    """Returns the module of :func:`made_ready`, for devices that need not be here.

    Args:
      spec: the module.
      platform: of the devices: "cpu", "gpu" or "tpu".
    """
    return _conversion(spec, platform)[0]


@functools.lru_cache(maxsize=16)
def _conversion(spec: ModuleSpec, platform: str) -> tuple[ModuleSpec, Callable[[Params], Params]]:
    """The spec of the module that is ready, and the function of the parameters to its parameters."""

    def changed(module: nnx.Module) -> nnx.Module:
        model = model_of(module)
        model.unstack()
        if platform == "cpu":
            model.turn()
        if isinstance(module, WithExtras):
            if STACKED in module.extras:
                heads = module.extras[STACKED]
                count = len(jax.tree.leaves(heads)[0])
                module.extras[STACKED] = nnx.List(
                    jax.tree.map(lambda leaf, place=place: leaf[place], heads) for place in range(count)
                )
            if platform == "cpu":
                turn_matrices(module.extras)
        return module

    ready = module_spec(lambda key: changed(spec.construct(key)))
    return ready, jax.jit(lambda params: pure_params(changed(spec.bind(params))))
