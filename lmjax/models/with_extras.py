"""A model, and the modules that an objective adds to it for training.

The parameters of a run are ``{"model": ...}``, or ``{"model": ..., "extras": {NAME: ...}}`` if the objective adds
modules. Only the model is sampled from and exported, and another run may begin with it.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from lmjax.models.config import ModelConfig
from lmjax.models.parameters import ModuleSpec, module_spec

MODEL, EXTRAS = "model", "extras"


class WithExtras(nnx.Module):
    """A model with extras, each a module or a parameter with a name."""

    def __init__(self, model: Any, **extras: Any):
        """Keeps the model, and the extras by their names."""
        self.model = model
        self.extras = nnx.Dict(**extras)

    @property
    def config(self) -> ModelConfig:
        """The configuration of the model."""
        return self.model.config


def with_extras(model: Any, **extras: Any) -> nnx.Module:
    """Returns the model together with those extras that are not None, or the model itself if all are None."""
    given = {name: extra for name, extra in extras.items() if extra is not None}
    return WithExtras(model, **given) if given else model


def model_of(module: Any) -> Any:
    """Returns the model of a module that may have extras."""
    return module.model if isinstance(module, WithExtras) else module


def extra_of(module: Any, name: str) -> Any:
    """Returns one of a module's extras, or None if the module has none of this name."""
    return module.extras[name] if isinstance(module, WithExtras) and name in module.extras else None


def trained_spec(construct: Callable[[jax.Array], nnx.Module]) -> ModuleSpec:
    """Returns the spec of a module that is trained: its parameters are ``{"model": ..., "extras": ...}``.

    ``bind`` returns the module that ``construct`` builds, which is the model itself if there are no extras.
    """
    spec = module_spec(construct)
    return spec if spec.shapes.keys() == {MODEL, EXTRAS} else spec.under(MODEL)


def model_spec(construct: Callable[[jax.Array], nnx.Module]) -> ModuleSpec:
    """Returns the spec of the model alone; its parameters are ``params["model"]`` of the whole module's parameters."""
    return module_spec(lambda key: model_of(construct(key)))
