"""Checkpoints of a run: written in the background, checked on the way back. The only file that knows Orbax.

A step is a folder ``N`` of named arrays: ``params``, ``ema`` (when there is an average) and
``training`` (step, optimizer state, key), apart so that sampling reads no moments; ``contents`` lists
them and holds the caller's data. Orbax writes it under another name and renames it when it is whole;
a kill at any moment leaves only whole steps. It does not notice a flipped bit on the way back, so
each step also gets a ``SHA256SUMS``. A step whose sums do not hold is renamed ``N.corrupt`` and the
one before it loaded. A step killed between its rename and its sums is loaded, with a note.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from lmjax.train.checksums import SUMS, first_mismatch, read_sums, write_sums
from lmjax.train.leaves import Leaves, by_part, check_same, described, is_key, named_leaves, part_of, storage
from lmjax.types import PyTree

CONTENTS = "contents"
MINUTES_CHECKED_EVERY = 10

Tree = TypeVar("Tree")
Choose = Callable[[dict[str, str]], tuple[Leaves, dict[str, str]]]
"""From what a step holds to the leaves wanted, and to those of its own that they must equal."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message names the folder and the remedy."""


class _DamagedError(Exception):
    """This step's files are not what was written; an earlier step may be."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run is saved, and what is kept."""

    every_steps: int | None = 1000
    """Steps between saves; None saves by time only."""
    every_minutes: float | None = None
    """Also save when this many minutes have passed since the last save."""
    keep_last: int | None = 3
    """How many of the latest checkpoints stay; None keeps all."""
    keep_every: int | None = None
    """Checkpoints of steps divisible by this stay for ever, besides the latest."""

    def __post_init__(self):
        for name in ("every_steps", "every_minutes", "keep_last", "keep_every"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"checkpoint.{name}={value}: must be above 0, or None to switch it off")


class Checkpoints:
    """The checkpoints in one folder; a context manager that waits for the last save when it closes.

    With several processes every method but :meth:`steps` is called by all of them, and the folder is
    on storage they share.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: CheckpointConfig | None = None,
        *,
        read_only: bool = False,
        notify: Callable[[str], object] = print,
    ):
        """Opens the folder, making it unless ``read_only``.

        Args:
          folder: where the steps are, a path of the local or a mounted file system.
          config: when to save, what to keep.
          read_only: only read: nothing is created, and a damaged step is passed over, not renamed.
          notify: receives one-line notices (a damaged step, an unverified one), in the first process.

        Raises:
          CheckpointError: the folder cannot be made or written to.
        """
        self.folder = pathlib.Path(folder).absolute()
        self.config = config or CheckpointConfig()
        self._notify = notify if jax.process_index() == 0 else lambda _: None
        self._saved_at = time.monotonic()
        self._last_step: int | None = None
        self._saving: tuple[int, threading.Thread] | None = None
        self._seal_error: OSError | None = None
        self._writer = None if read_only else self._open_writer()

    def _open_writer(self) -> ocp.training.Checkpointer:
        policies = ocp.training.preservation_policies
        keep: list = [policies.LatestN(self.config.keep_last)]
        if self.config.keep_every is not None:
            keep.append(policies.EveryNSteps(self.config.keep_every))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
            self._clear_unfinished()
            context = ocp.Context()
            context.checkpointables.registry = ocp.handlers.local_registry()
            context.checkpointables.registry.add(ocp.handlers.JsonHandler, checkpointable_name=CONTENTS)
            return ocp.training.Checkpointer(
                self.folder,
                context=context,
                preservation_policy=policies.AnyPreservationPolicy(keep),
            )
        except OSError as error:
            raise CheckpointError(
                f"checkpoints cannot be written to {self.folder}: {_first_line(error)}; make it a folder "
                f"this user can write to, or choose another run folder"
            ) from error

    def _clear_unfinished(self) -> None:
        """Frees the space of steps whose writing failed or was killed; Orbax overlooks some of them."""
        if jax.process_index() == 0:
            for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)

    def __enter__(self) -> "Checkpoints":
        """The checkpoints themselves."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """:meth:`close`; a failure of the last save does not hide the error that ended the block."""
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            self._notify(str(failure))

    def close(self) -> None:
        """Waits for the save under way and releases Orbax's threads.

        Raises:
          CheckpointError: that save failed.
        """
        try:
            self.wait()
        finally:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()

    def steps(self) -> list[int]:
        """The steps that can be restored, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdecimal() and p.is_dir())

    def latest_step(self) -> int | None:
        """The newest step, as the first process sees it; ``None`` when there is none."""
        return self._latest_of(self.steps())

    @staticmethod
    def _latest_of(steps: Iterable[int]) -> int | None:
        step = _from_primary(max(steps, default=-1))
        return None if step < 0 else step

    def should_save(self, step: int) -> bool:
        """Whether a save is due after ``step`` updates, by count or by time since the last save.

        Several processes agree on the time, which costs a round trip, every few steps only.
        """
        if self.config.every_steps is not None and step > 0 and step % self.config.every_steps == 0:
            return True
        if self.config.every_minutes is None:
            return False
        if jax.process_count() > 1 and step % MINUTES_CHECKED_EVERY:
            return False
        return bool(_from_primary(time.monotonic() - self._saved_at >= 60 * self.config.every_minutes))

    def save(self, step: int, state: PyTree, data: Any = None) -> bool:
        """Copies ``state`` from the devices and writes it in the background.

        The state may be donated as soon as this returns. An earlier save that is still under way is
        waited for first.

        Args:
          step: updates done.
          state: the training state, arrays and typed PRNG keys; its fields ``params`` and ``ema`` are
            stored apart from the rest.
          data: anything JSON can hold, e.g. the position in the data; read back by :meth:`restore`.

        Returns:
          False when this step was just saved or restored, and there is nothing to do.

        Raises:
          CheckpointError: this save could not start, the previous one failed, or the step is there
            already.
          ValueError: ``data`` is not JSON.
        """
        assert self._writer is not None, "opened read-only, or closed"
        self.wait()
        if step == self._last_step:
            return False
        if (self.folder / str(step)).exists():
            raise CheckpointError(
                f"{self.folder} already has a checkpoint of step {step}, which this run did not write or "
                f"restore: move it away, or choose another run folder"
            )
        try:
            json.dumps(data)
        except (TypeError, ValueError) as error:
            raise ValueError(f"checkpoint of step {step}: its data cannot be written as JSON: {error}") from error
        with self._failures_of(step), jax.transfer_guard("allow"):
            leaves = named_leaves(state)
            keys = {name: str(jax.random.key_impl(leaf)) for name, leaf in leaves.items() if is_key(leaf)}
            contents = {"leaves": described(leaves), "keys": keys, "data": data}
            raw = {n: jax.random.key_data(leaf) if n in keys else leaf for n, leaf in leaves.items()}
            response = self._writer.save_checkpointables_async(step, {CONTENTS: contents, **by_part(raw)}, force=True)
            assert response is not None
        sealer = threading.Thread(target=self._seal, args=(step, response), name=f"checksums of step {step}")
        sealer.start()
        self._saving, self._saved_at = (step, sealer), time.monotonic()
        return True

    def _seal(self, step: int, response: ocp.AsyncResponse) -> None:
        """Writes the sums once Orbax is done; runs in a thread of its own."""
        try:
            response.result()
        except Exception:  # wait() gets it from Orbax too, and in the caller's thread.
            return
        if jax.process_index() == 0:
            try:
                write_sums(self.folder / str(step))
            except OSError as error:
                self._seal_error = error

    def wait(self) -> None:
        """Returns when no save is under way.

        Raises:
          CheckpointError: the save failed; earlier checkpoints are intact.
        """
        if self._saving is None:
            return
        (step, sealer), self._saving = self._saving, None
        sealer.join()
        with self._failures_of(step):
            assert self._writer is not None
            self._writer.wait()
            error, self._seal_error = self._seal_error, None
            if error is not None:
                raise error
        self._last_step = step

    @contextlib.contextmanager
    def _failures_of(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._clear_unfinished()
            if self._writer is not None:
                self._writer.reload()
            intact = [done for done in self.steps() if done != step]
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self.folder}: {_first_line(error)}; "
                f"{_remedy(error)}; "
                + (f"the checkpoints of steps {intact} are intact" if intact else "there is no earlier checkpoint")
            ) from error

    def restore(self, abstract_state: Tree, step: int | None = None) -> tuple[Tree, Any]:
        """The state and the data of a step, the newest intact one unless ``step`` is given.

        Args:
          abstract_state: like the state saved, with shapes, dtypes and the shardings wanted now
            (``jax.ShapeDtypeStruct`` or arrays); the devices may be others than at the save.
          step: the step to load; when it is damaged no other is taken for it.

        Raises:
          ValueError: the checkpoint is of another model or optimizer, or there is no such step.
          CheckpointError: there is no checkpoint, or none that is intact.
        """
        wanted = named_leaves(abstract_state)
        loaded, data, found = self._load(lambda saved: (wanted, saved), step)
        self._last_step = found
        leaves = [loaded[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(abstract_state), leaves), data

    def restore_params(
        self, abstract_params: Tree, *, ema: bool | None = None, step: int | None = None
    ) -> tuple[Tree, int]:
        """Parameters only, and the step they are of; no optimizer state is read.

        Args:
          abstract_params: as for :meth:`restore`.
          ema: True for their moving average, False for the parameters themselves, None for the
            average where the checkpoint has one.
          step: as for :meth:`restore`.

        Raises:
          ValueError: as for :meth:`restore`, and for ``ema=True`` without an average.
          CheckpointError: as for :meth:`restore`.
        """
        structure = jax.tree.structure(abstract_params)

        def choose(saved: dict[str, str]) -> tuple[Leaves, dict[str, str]]:
            averaged = any(part_of(name) == "ema" for name in saved) if ema is None else ema
            part = "ema" if averaged else "params"
            of_part = {name: leaf for name, leaf in saved.items() if part_of(name) == part}
            if not of_part:
                raise ValueError(f"the checkpoints in {self.folder} hold no {part}: the run kept no average")
            return named_leaves({part: abstract_params}), of_part

        loaded, _, found = self._load(choose, step)
        return jax.tree.unflatten(structure, list(loaded.values())), found

    def _load(self, choose: Choose, step: int | None) -> tuple[Leaves, Any, int]:
        refused: set[int] = set()
        if step is not None and step not in self.steps():
            raise ValueError(f"no checkpoint of step {step} in {self.folder}: there are {self.steps()}")
        while (found := self._latest_of(set(self.steps()) - refused) if step is None else step) is not None:
            try:
                return *self._load_step(found, choose), found
            except _DamagedError as damage:
                refused.add(found)
                self._quarantine(found, damage)
                if step is not None:
                    raise CheckpointError(
                        f"the checkpoint of step {step} in {self.folder} is damaged: {damage}; "
                        f"others there: {self.steps()}"
                    ) from damage
        intact = " that is intact" if refused else ""
        raise CheckpointError(f"{self.folder} has no checkpoint{intact}; start the run anew")

    def _load_step(self, step: int, choose: Choose) -> tuple[Leaves, Any]:
        folder = self.folder / str(step)
        sums = read_sums(folder) or {}
        sealed = _from_primary(bool(sums))
        if not sealed:
            self._notify(f"checkpoint of step {step}: no {SUMS} (the run ended before it was written); not verified")
        # The list of contents first: to be told that the model is another must not take reading the weights.
        _verify(folder, sums, {CONTENTS})
        try:
            contents = ocp.load_checkpointables(folder, {CONTENTS: None})[CONTENTS]
            saved, keys, data = contents["leaves"], contents["keys"], contents["data"]
        except Exception as error:
            raise _DamagedError(_first_line(error)) from error
        wanted, expected = choose(saved)
        check_same(described(wanted), expected, folder)
        parts = by_part({name: storage(leaf) for name, leaf in wanted.items()})
        _verify(folder, sums, set(parts))
        try:
            loaded = ocp.load_checkpointables(folder, parts)
        except (OSError, ValueError, KeyError) as error:
            if not sealed:
                raise _DamagedError(_first_line(error)) from error
            raise CheckpointError(f"{folder} could not be read: {_first_line(error)}") from error
        leaves = {name: leaf for part in loaded.values() for name, leaf in part.items()}
        for name in keys.keys() & leaves.keys():
            leaves[name] = jax.random.wrap_key_data(leaves[name], impl=keys[name])
        return {name: leaves[name] for name in wanted}, data

    def _quarantine(self, step: int, damage: _DamagedError) -> None:
        """Takes a damaged step out of the way without deleting anything."""
        aside = self.folder / f"{step}.corrupt"
        taken = 1
        while aside.exists():
            taken += 1
            aside = self.folder / f"{step}.corrupt.{taken}"
        where = "passed over"
        if self._writer is not None:
            if jax.process_index() == 0:
                (self.folder / str(step)).rename(aside)
            _from_primary(step)
            self._writer.reload()
            where = f"set aside as {aside.name}"
        self._notify(f"checkpoint of step {step} in {self.folder} is damaged ({damage}); {where}")


def _verify(folder: pathlib.Path, sums: dict[str, str], parts: set[str]) -> None:
    """Reads the files of these parts of a step and compares; the first process does so for all.

    Raises:
      _DamagedError: a file is missing or differs.
    """
    of_parts = {name: digest for name, digest in sums.items() if name.split("/")[0] in parts}
    bad = first_mismatch(folder, of_parts) if jax.process_index() == 0 else None
    if _from_primary(bad is not None):
        raise _DamagedError(f"{bad or 'a file'} is missing or differs from its checksum")


def _from_primary(value: int) -> int:
    """The first process's value, in every process."""
    if jax.process_count() == 1:
        return int(value)
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _remedy(error: BaseException) -> str:
    text = f"{type(error).__name__} {error}"
    if "FileNotFoundError" in text or "No such file" in text or "NOT_FOUND" in text:
        return "something else deletes files there: let it leave this folder alone, and run the same command again"
    if "PermissionError" in text or "Permission denied" in text or "Read-only" in text:
        return "make it a folder this user can write to, or choose another run folder"
    return "free space there or choose another run folder"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
