"""Reads the arguments of a command that has a dataclass for them."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from lmjax.parallel.paths import refuse_address

Arguments = TypeVar("Arguments")


def parse_arguments(kind: type[Arguments], arguments: Sequence[str], *, command: str) -> Arguments:
    """Reads a command's arguments, and returns them as the dataclass ``kind``.

    Args:
      kind: the dataclass of the command's options.
      arguments: the words after the command.
      command: the command's name, for messages.

    Raises:
      ValueError: a path is an address such as ``gs://BUCKET/RUN``.
      SystemExit: with 2 for a wrong argument, with 0 for ``--help``.
    """
    options: Any = tyro.cli(kind, args=list(arguments), prog=f"lmjax {command}")
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, pathlib.Path):
                refuse_address(field.name, path)
    return options
