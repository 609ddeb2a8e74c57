"""Models made ready for decoding: their layers unstacked and, on CPUs, their matrices stored as they are read fastest.

It is done once, before the functions that write a few tokens at a time are called. Inside of such a function, each call
would copy all weights.
"""

import functools

import jax
from flax import nnx

from lmjax.models.parameters import ModuleSpec, Params, module_spec, pure_params
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import model_of
from lmjax.parallel.mesh import current_platform


def made_ready(spec: ModuleSpec, params: Params) -> tuple[ModuleSpec, Params]:
    """Returns a model, and its parameters, in the form in which it decodes fastest. It computes the same function.

    Args:
      spec: the module, a :class:`~lmjax.models.transformer.Transformer`, alone or with extras.
      params: its parameters.
    """
    ready, convert = _conversion(spec, current_platform())
    return ready, convert(params)


@functools.lru_cache(maxsize=16)
def _conversion(spec: ModuleSpec, platform: str):
    """The spec of the model that is ready, and the function of the parameters to its parameters."""

    def changed(module: nnx.Module) -> nnx.Module:
        model: Transformer = model_of(module)
        model.unstack()
        if platform == "cpu":
            model.turn()
        return module

    ready = module_spec(lambda key: changed(spec.construct(key)))
    return ready, jax.jit(lambda params: pure_params(changed(spec.bind(params))))
