"""Configurations of which one class of several is chosen, and what ``config.json`` may name as that class.

A folder of a run may come from somebody else. What it names must not be imported only because it is named: to import a
module is to run it. Three kinds of classes are found: those of the family's home within lmjax, those that are loaded
already (the recipe of the command imported their module), and those of the modules that the user trusts by name in
``LMJAX_MODULES``.
"""

import dataclasses
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

MODULES_VARIABLE = "LMJAX_MODULES"
"""Names the user's own modules or packages, separated by commas, that config.json may have classes from."""

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


class Choice:
    """Base of the configurations of one family, such as objectives or optimizers.

    The base class of a family names the package that holds lmjax's own members of it:
    ``class Objective(Choice, home="lmjax.objectives")``. A member is a dataclass that derives from the base class.
    ``config.json`` holds its fields and, as ``type``, its class.
    """

    home: ClassVar[str]
    """The package that is imported from when ``config.json`` names one of its classes."""
    family: ClassVar["type[Choice]"]
    """The base class of the family."""

    def __init_subclass__(cls, *, home: str | None = None, **options):
        super().__init_subclass__(**options)
        if home is not None:
            cls.home, cls.family = home, cls


Chosen = TypeVar("Chosen", bound=Choice)


def class_name(kind: type) -> str:
    """Returns ``module:Class``, as config.json has it."""
    return f"{kind.__module__}:{kind.__qualname__}"


def members(kind: type[Chosen]) -> dict[str, type[Chosen]]:
    """Returns the classes of a family that are loaded and can be made, by their :func:`class_name`."""
    # Where a module was loaded twice, the latest of two classes with one name stays.
    return {class_name(member): member for member in _subclasses(kind) if not inspect.isabstract(member)}


def chosen_classes(config: Any) -> list[type[Choice]]:
    """Returns the class of every member of a family in a configuration, however deep it lies."""
    if isinstance(config, tuple | list):
        return [kind for item in config for kind in chosen_classes(item)]
    if not dataclasses.is_dataclass(config):
        return []
    own: list[type[Choice]] = [type(config)] if isinstance(config, Choice) else []
    return own + chosen_classes([getattr(config, field.name) for field in dataclasses.fields(config)])


def named_class(kind: type[Chosen], name: object, where: str) -> type[Chosen]:
    """Returns the class of a name, imported only where the user or this package answers for its module.

    Args:
      kind: the base class of the family.
      name: what config.json says.
      where: what to call the place in messages.

    Raises:
      ValueError: it is no such name, of a module that is not trusted, or not there.
    """
    family = kind.family.__name__.lower()
    noun = f"{'an' if family[0] in 'aeiou' else 'a'} {family}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        example = min(members(kind), default=f"{kind.home}.MODULE:CLASS")
        raise ValueError(f"{where}: type is {name!r}: must name {noun}, as in {example}")
    module_name = name.partition(":")[0]
    not_one = f"{where}: {name!r} is not {noun}: written by another version of lmjax?"
    ours = module_name == kind.home or module_name.startswith(f"{kind.home}.")
    if name not in members(kind) and (
        module_name in sys.modules or (module_name.partition(".")[0] == "lmjax" and not ours)
    ):
        # All that a loaded module has is known, and the members of lmjax are in one place only.
        raise ValueError(not_one)
    if name not in members(kind):
        trusted = [kind.home, *filter(None, map(str.strip, os.environ.get(MODULES_VARIABLE, "").split(",")))]
        if not any(module_name == module or module_name.startswith(f"{module}.") for module in trusted):
            raise ValueError(
                f"{where}: the {family} {name!r} is not one of lmjax, and a folder alone may not have its module "
                f"imported: if you trust that module, set {MODULES_VARIABLE}={module_name.partition('.')[0]} in the "
                f"environment"
            )
        try:
            importlib.import_module(module_name)
        except ImportError as error:
            raise ValueError(f"{where}: {name!r} cannot be imported ({error}): install the module it is in") from None
    found = members(kind).get(name)
    if found is None:
        raise ValueError(not_one)
    return found


def _subclasses(kind: type[Chosen]) -> Iterator[type[Chosen]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
