"""Reads one step, and finds out whether it can be trusted."""

import pathlib
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lmjax.models.parameters import Leaves, named_leaves
from lmjax.train.checkpoint.checksums import first_problem, read_sums
from lmjax.train.checkpoint.errors import CheckpointError, DamagedError, first_line, some
from lmjax.train.checkpoint.format import format_of, saved_names
from lmjax.train.checkpoint.storage import CONTENTS, Storage, missing_file
from lmjax.train.leaves import by_part, check_same, described, not_finite, part_of, storage
from lmjax.types import PyTree

Choose = Callable[[dict[str, str]], tuple[Leaves, dict[str, str]]]
"""A function that chooses what to read. Given the saved leaves (described by name), it returns the leaves that are
wanted, and those saved leaves that they must match."""


def load_step(files: Storage, folder: pathlib.Path, choose: Choose) -> tuple[Leaves, Any]:
    """Returns the leaves that are wanted from a step, under today's names, and the caller's data.

    Args:
      files: the storage of the folder that holds the step.
      folder: the folder of the step.
      choose: chooses the leaves that are wanted from those that are there.

    Raises:
      ValueError: the step is of another model or optimizer.
      DamagedError: the step cannot be trusted.
      CheckpointError: the files are as they were written, but they cannot be read.
    """
    # The list of contents is read first: the error that the model is another one should not need the weights.
    sealed = _verify(folder, {CONTENTS})
    try:
        contents = files.read(int(folder.name), {CONTENTS: None})[CONTENTS]
        saved, keys, data = contents["leaves"], contents["keys"], contents["data"]
    except Exception as error:
        raise DamagedError(first_line(error)) from error
    try:
        number = format_of(contents)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    wanted, expected = choose(saved)
    names = saved_names(wanted, saved, number=number)
    today = {former: name for name, former in names.items()}
    check_same(described(wanted), {today.get(name, name): leaf for name, leaf in expected.items()}, folder)
    parts = by_part({names[name]: storage(leaf) for name, leaf in wanted.items()})
    _verify(folder, set(parts))
    try:
        loaded = files.read(int(folder.name), parts)
    except (OSError, ValueError, KeyError) as error:
        if not sealed:
            raise DamagedError(first_line(error)) from error
        raise CheckpointError(f"{folder} could not be read: {first_line(error)}") from error
    leaves = {name: leaf for part in loaded.values() for name, leaf in part.items()}
    bad = not_finite(leaves)
    if bad:
        raise DamagedError(f"not finite: {some(bad)}")
    for name in keys.keys() & leaves.keys():
        leaves[name] = jax.random.wrap_key_data(leaves[name], impl=keys[name])
    return {name: leaves[names[name]] for name in wanted}, data


def everything(abstract_state: PyTree) -> Choose:
    """Returns a choice of the whole state."""
    wanted = named_leaves(abstract_state)
    return lambda saved: (wanted, saved)


def parameters(abstract_params: PyTree, *, ema: bool | None, folder: pathlib.Path) -> Choose:
    """Returns a choice of the parameters or of their average, see :meth:`Checkpoints.restore_params`."""

    def choose(saved: dict[str, str]) -> tuple[Leaves, dict[str, str]]:
        averaged = any(part_of(name) == "ema" for name in saved) if ema is None else ema
        part = "ema" if averaged else "params"
        of_part = {name: leaf for name, leaf in saved.items() if part_of(name) == part}
        if not of_part:
            raise ValueError(f"the checkpoints in {folder} hold no {part}: the run kept no average")
        return named_leaves({part: abstract_params}), of_part

    return choose


def _verify(folder: pathlib.Path, parts: Collection[str]) -> bool:
    """Compares the files of these parts with the step's checksums; the first process does so for all.

    Returns:
      False if there are no checksums yet, else True.

    Raises:
      DamagedError: a file is missing, not listed or different, or the list of checksums is not readable.
    """
    problem, sealed = None, True
    if jax.process_index() == 0:
        try:
            sums = read_sums(folder)
            sealed = sums is not None
            problem = None if sums is None else first_problem(folder, sums, parts=parts)
        except (OSError, ValueError) as error:
            problem = first_line(error)
        missing = missing_file(folder, parts)
        problem = problem or (None if missing is None else f"{missing} is missing")
    if from_primary(problem is not None):
        raise DamagedError(problem or "as the first process found")
    return bool(from_primary(sealed))


def from_primary(value: int) -> int:
    """Returns the first process's value, in every process."""
    if jax.process_count() == 1:
        return int(value)
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
