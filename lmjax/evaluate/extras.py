"""The packages of the extra ``eval``, imported where they are used."""

import importlib
from types import ModuleType


def needed(module: str, *, package: str, what: str) -> ModuleType:
    """Returns a module of an optional package.

    Args:
      module: its name.
      package: the name of the package.
      what: what needs it, for the message.

    Raises:
      ValueError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{what} needs {package} ({error}): pip install 'lmjax[eval]'") from None
