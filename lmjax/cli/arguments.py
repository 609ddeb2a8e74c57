"""Reads the arguments of a command that has a dataclass for them."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import tyro

from lmjax.data.stored import local_folder
from lmjax.parallel.paths import refuse_address
from lmjax.remote.address import address_of, stored_address

Arguments = TypeVar("Arguments")


def parse_arguments(
    kind: type[Arguments],
    arguments: Sequence[str],
    *,
    command: str,
    runs: Collection[str] = (),
    data: Collection[str] = (),
    fetch: Callable[[pathlib.Path, Any], pathlib.Path] | None = None,
) -> Arguments:
    """Reads a command's arguments, and returns them as the dataclass ``kind``.

    Addresses of runs and of prepared data in object storage become the paths of local copies.

    Args:
      kind: the dataclass of the command's options.
      arguments: the words after the command.
      command: the command's name, for messages.
      runs: the fields that name runs to read; no other path may be an address, but for those of ``data``.
      data: the fields that name prepared data to read; they hold one path each.
      fetch: returns the local copy of a run, by its path and the options; by default with the checkpoint that the
        options name.

    Raises:
      ValueError: a path is an address such as ``gs://BUCKET/FILE``, or there is no run at the address of a run.
      CheckpointError, RemoteError: a run in object storage cannot be read.
      SystemExit: with 2 for a wrong argument, with 0 for ``--help``.
    """
    options: Any = tyro.cli(kind, args=list(arguments), prog=f"lmjax {command}")
    local: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        paths = [path for path in (value if isinstance(value, tuple) else (value,)) if isinstance(path, pathlib.Path)]
        if field.name in data and stored_address(value) is not None:
            local[field.name] = local_folder(value)
            continue
        remote = [path for path in paths if field.name in runs and address_of(path) is not None]
        for path in paths:
            if path not in remote:
                refuse_address(field.name, path)
        if remote:
            folders = tuple((fetch or _fetch_step)(path, options) for path in paths)
            local[field.name] = folders if isinstance(value, tuple) else folders[0]
    return dataclasses.replace(options, **local) if local else options


def _fetch_step(path: pathlib.Path, options: Any) -> pathlib.Path:
    from lmjax.train.remote_run import local_run

    return local_run(path, getattr(options, "step", None), say=_note)


def without_checkpoint(path: pathlib.Path, options: object) -> pathlib.Path:
    """Returns the local copy of a run for a command that reads no parameters."""
    from lmjax.train.remote_run import local_run

    return local_run(path, "none", say=_note)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
