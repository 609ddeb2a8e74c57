"""Which classes a run's ``config.json`` may name as its objective.

A folder of a run may come from somebody else, so that what it names must not be imported for the asking: to import a
module is to run it. Found are the objectives of :mod:`lmjax.objectives`, those that are loaded already (the recipe of
the command imported their module), and those of the modules that the user trusts by name in ``LMJAX_MODULES``.
"""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator

from lmjax.objectives import Objective

MODULES_VARIABLE = "LMJAX_MODULES"
"""Names the user's own modules or packages, separated by commas, that config.json may have objectives from."""

OURS = "lmjax.objectives"
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


def class_name(kind: type[Objective]) -> str:
    """``module:Class``, as config.json has it."""
    return f"{kind.__module__}:{kind.__qualname__}"


def objective_class(name: object, where: str) -> type[Objective]:
    """The objective of a name, imported only where the user or this package answers for its module.

    Args:
      name: what config.json says.
      where: what to call the place in messages.

    Raises:
      ValueError: it is no such name, of a module that is not trusted, or not there.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{where}: type is {name!r}: must name an objective, as in {OURS}.causal_lm:CausalLM")
    module_name = name.partition(":")[0]
    not_one = f"{where}: {name!r} is not an objective: written by another version of lmjax?"
    kind = _loaded(name)
    ours = module_name == OURS or module_name.startswith(f"{OURS}.")
    if kind is None and (module_name in sys.modules or (module_name.partition(".")[0] == "lmjax" and not ours)):
        # All that a loaded module has is known, and we have objectives in one place only.
        raise ValueError(not_one)
    if kind is None:
        trusted = [OURS, *filter(None, map(str.strip, os.environ.get(MODULES_VARIABLE, "").split(",")))]
        if not any(module_name == module or module_name.startswith(f"{module}.") for module in trusted):
            raise ValueError(
                f"{where}: the objective {name!r} is not one of lmjax, and a folder alone may not have its module "
                f"imported: if you trust that module, set {MODULES_VARIABLE}={module_name.partition('.')[0]} in the "
                f"environment"
            )
        try:
            importlib.import_module(module_name)
        except ImportError as error:
            raise ValueError(f"{where}: {name!r} cannot be imported ({error}): install the module it is in") from None
        kind = _loaded(name)
    if kind is None or inspect.isabstract(kind):
        raise ValueError(not_one)
    return kind


def _loaded(name: str) -> type[Objective] | None:
    # The latest, where a module was loaded twice.
    return {class_name(kind): kind for kind in _subclasses(Objective)}.get(name)  # type: ignore[type-abstract]


def _subclasses(kind: type[Objective]) -> Iterator[type[Objective]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
