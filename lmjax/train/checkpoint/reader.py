"""Loads from a folder of checkpoints: the newest step that can be trusted, or a step that is asked for."""

import contextlib
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax

from lmjax.models.parameters import Leaves
from lmjax.train.checkpoint.checksums import SUMS, write_sums
from lmjax.train.checkpoint.errors import CheckpointError, DamagedError, first_line, some
from lmjax.train.checkpoint.folder import read_best, set_aside, steps_set_aside, steps_there
from lmjax.train.checkpoint.load import Choose, everything, from_primary, load_step, parameters
from lmjax.train.checkpoint.storage import Storage

Tree = TypeVar("Tree")


class Reader:
    """The part of :class:`Checkpoints` that only reads."""

    def __init__(self, folder: pathlib.Path, notify: Callable[[str], object]):
        """Keeps the folder, an absolute path; a subclass that writes sets ``_files``."""
        self.folder = folder
        self._notify = notify if jax.process_index() == 0 else lambda _: None
        self._last_step: int | None = None
        self._best = read_best(folder)
        self._files: Storage | None = None

    def steps(self) -> list[int]:
        """Returns the steps that can be restored, in ascending order."""
        return steps_there(self.folder)

    def latest_step(self) -> int | None:
        """Returns the newest step, as the first process sees it; ``None`` if there is none."""
        return self._latest_of(self.steps())

    @staticmethod
    def _latest_of(steps: Iterable[int]) -> int | None:
        step = from_primary(max(steps, default=-1))
        return None if step < 0 else step

    def best_step(self) -> int | None:
        """Returns the best step (``checkpoint.keep_best``); ``None`` if none was kept."""
        return None if self._best is None else self._best.step

    def check_not_only_set_aside(self) -> None:
        """Refuses a folder whose steps were all found damaged.

        Raises:
          CheckpointError: there are steps that were set aside, and no others.
        """
        aside = steps_set_aside(self.folder)
        if not from_primary(bool(aside) and not self.steps()):
            return
        raise CheckpointError(
            f"{self.folder} has no checkpoint that is intact, only damaged ones set aside ({some(aside)}): copy an "
            f"intact one there, rename one back to its number to have it tried again, or delete the run folder to "
            f"begin anew"
        )

    def restore(self, abstract_state: Tree, step: int | None = None) -> tuple[Tree, Any]:
        """Returns the state and the data of a step: of the newest intact one, unless ``step`` is given.

        If the step has no checksums yet, they are written after it has been read, unless the folder was opened to read
        only.

        Args:
          abstract_state: a tree like the saved state, with the shapes, the dtypes and the shardings wanted now
            (``jax.ShapeDtypeStruct`` or arrays); the devices may be others than at the save.
          step: the step to load; if it is damaged, no other step is loaded in its place.

        Raises:
          ValueError: the checkpoint is of another model or optimizer, or there is no such step.
          CheckpointError: there is no checkpoint, or no intact one.
        """
        loaded, data, found = self._load(everything(abstract_state), step)
        self._last_step = found
        self._seal_read(found)
        return jax.tree.unflatten(jax.tree.structure(abstract_state), list(loaded.values())), data

    def restore_params(
        self, abstract_params: Tree, *, ema: bool | None = None, step: int | None = None
    ) -> tuple[Tree, int]:
        """Returns only the parameters, and the step they belong to; no optimizer state is read.

        Args:
          abstract_params: as for :meth:`restore`.
          ema: True for the moving average of the parameters, False for the parameters themselves, None for the
            average if the checkpoint has one.
          step: as for :meth:`restore`.

        Raises:
          ValueError: as for :meth:`restore`; also if ``ema=True`` and there is no average.
          CheckpointError: as for :meth:`restore`.
        """
        loaded, _, found = self._load(parameters(abstract_params, ema=ema, folder=self.folder), step)
        return jax.tree.unflatten(jax.tree.structure(abstract_params), list(loaded.values())), found

    def _load(self, choose: Choose, step: int | None) -> tuple[Leaves, Any, int]:
        refused: set[int] = set()
        if step is not None and step not in self.steps():
            raise ValueError(f"no checkpoint of step {step} in {self.folder}: there are {self.steps()}")
        with self._reading() as files:
            while (found := self._latest_of(set(self.steps()) - refused) if step is None else step) is not None:
                if not from_primary((self.folder / str(found) / SUMS).exists()):
                    self._notify(
                        f"checkpoint of step {found}: no {SUMS} (the run ended before it was written); not verified"
                    )
                try:
                    return *load_step(files, self.folder / str(found), choose), found
                except DamagedError as damage:
                    refused.add(found)
                    self._quarantine(found, damage)
                    if step is not None:
                        raise CheckpointError(
                            f"the checkpoint of step {step} in {self.folder} is damaged: {damage}; "
                            f"others there: {self.steps()}"
                        ) from damage
        self.check_not_only_set_aside()
        intact = " that is intact" if refused else ""
        raise CheckpointError(f"{self.folder} has no checkpoint{intact}; start the run anew")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Storage]:
        if self._files is not None:
            yield self._files
            return
        files = Storage(self.folder)
        try:
            yield files
        finally:
            files.close()

    def _quarantine(self, step: int, damage: DamagedError) -> None:
        where = "passed over"
        if self._files is not None:
            if jax.process_index() == 0:
                where = f"set aside as {set_aside(self.folder, step)}"
            from_primary(step)
            self._files.reload()
            self._best = read_best(self.folder)
        self._notify(f"checkpoint of step {step} in {self.folder} is damaged ({damage}); {where}")

    def _seal_read(self, step: int) -> None:
        """Writes the checksums of a step, after all of it has been read and found good."""
        folder = self.folder / str(step)
        if self._files is None or jax.process_index() != 0 or (folder / SUMS).exists():
            return
        try:
            write_sums(folder)
            self._notify(f"checkpoint of step {step}: read well, {SUMS} written now")
        except OSError as error:
            self._notify(f"checkpoint of step {step}: {SUMS} could not be written ({first_line(error)})")
