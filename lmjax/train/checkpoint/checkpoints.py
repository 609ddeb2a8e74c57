"""The checkpoints in one folder: saving in the background, loading the newest that can be trusted."""

import contextlib
import json
import math
import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from lmjax.models.parameters import Leaves, named_leaves
from lmjax.train.checkpoint.checksums import write_sums
from lmjax.train.checkpoint.config import CheckpointConfig
from lmjax.train.checkpoint.errors import CheckpointError, NonFiniteState, first_line, remedy, some
from lmjax.train.checkpoint.folder import BEST, Best, delete_steps, read_best, set_aside, write_best
from lmjax.train.checkpoint.format import FORMAT
from lmjax.train.checkpoint.grace import Grace
from lmjax.train.checkpoint.load import from_primary
from lmjax.train.checkpoint.mirror import Mirror
from lmjax.train.checkpoint.reader import Reader
from lmjax.train.checkpoint.storage import CONTENTS, Storage, Writing, clear_unfinished, missing_file
from lmjax.train.leaves import by_part, described, is_key, not_finite
from lmjax.types import PyTree

MINUTES_CHECKED_EVERY = 10


class Checkpoints(Reader):
    """The checkpoints in one folder; a context manager that waits for the last save when it closes.

    With several processes, all of them must call every method except :meth:`~Reader.steps`, and the folder must be on
    storage that they share.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: CheckpointConfig | None = None,
        *,
        read_only: bool = False,
        notify: Callable[[str], object] = print,
        mirror: Mirror | None = None,
    ):
        """Opens the folder, and makes it first if needed, unless ``read_only``.

        Args:
          folder: the folder of the steps, on the local or a mounted file system.
          config: when to save, and what to keep.
          read_only: whether only to read: nothing is created, and a damaged step is skipped, not renamed.
          notify: receives notices of one line (about a damaged or an unverified step), in the first process only.
          mirror: copies each step that is complete to object storage; in the first process only.

        Raises:
          CheckpointError: the folder cannot be made or written to.
        """
        super().__init__(pathlib.Path(folder).absolute(), notify)
        self.config = config or CheckpointConfig()
        self.mirror = mirror
        self.grace = Grace(self.config.grace_seconds, notify=notify if jax.process_index() == 0 else lambda _: None)
        self._saved_at = time.monotonic()
        self._saving: tuple[int, threading.Thread] | None = None
        self._seal_error: Exception | None = None
        self._not_deleted: list[str] = []
        self._next_best: Best | None = None
        self._files = None if read_only else self._open_files()

    def _open_files(self) -> Storage:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
            self._clear_unfinished()
            return Storage(self.folder, writes=True)
        except OSError as error:
            raise CheckpointError(
                f"checkpoints cannot be written to {self.folder}: {first_line(error)}; make it a folder "
                f"this user can write to, or choose another run folder"
            ) from error

    def _clear_unfinished(self) -> None:
        if jax.process_index() == 0:
            clear_unfinished(self.folder)

    def __enter__(self) -> "Checkpoints":
        """Returns the checkpoints themselves."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Calls :meth:`close`; a failure of the last save does not hide the error that ended the block."""
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            self._notify(str(failure))

    def close(self) -> None:
        """Waits for a save that is under way, and ends Orbax's threads.

        Raises:
          CheckpointError: the save failed.
        """
        try:
            self.wait()
        finally:
            files, self._files = self._files, None
            if files is not None:
                files.close()

    def improves(self, value: float) -> bool:
        """Returns whether the run keeps its best checkpoint and this value of ``best_by`` is the best so far."""
        if not (self.config.keep_best and math.isfinite(value)):
            return False
        best = self._best
        if best is None or (best.number, best.which) != (self.config.best_by, self.config.best_is):
            # Another number decided before, and its values cannot be compared with this one.
            return True
        return value < best.value if self.config.best_is == "lowest" else value > best.value

    def forget_best(self) -> None:
        """Forgets the best value, because later ones cannot be compared with it.

        The best checkpoint stays until it is deleted as an old one.
        """
        self._best = None
        if self._files is not None and jax.process_index() == 0:
            (self.folder / BEST).unlink(missing_ok=True)

    def should_save(self, step: int) -> bool:
        """Returns whether a save is due after ``step`` updates, by count or by time since the last save.

        Several processes have to agree on the time. This costs a round trip, so they do it only every few steps.
        """
        if self.config.every_steps is not None and step > 0 and step % self.config.every_steps == 0:
            return True
        if self.config.every_minutes is None:
            return False
        if jax.process_count() > 1 and step % MINUTES_CHECKED_EVERY:
            return False
        return bool(from_primary(time.monotonic() - self._saved_at >= 60 * self.config.every_minutes))

    def save(self, step: int, state: PyTree, data: Any = None, *, value: float = math.nan) -> bool:
        """Copies ``state`` from the devices and writes it in the background.

        The method first waits for an earlier save that is still under way. The state may be donated as soon as the
        method returns. A state in which any array holds NaN or infinity is not saved.

        Args:
          step: number of updates done.
          state: the training state, made of arrays and typed PRNG keys; its fields ``params`` and ``ema`` are
            stored apart from the rest.
          data: anything that JSON can hold, e.g. the position in the data; :meth:`restore` returns it.
          value: the value of ``checkpoint.best_by`` of this state, NaN if it has none, see :meth:`improves`.

        Returns:
          False if this step was just saved or restored, so that there is nothing to do; else True.

        Raises:
          NonFiniteState: a value is not finite.
          CheckpointError: this save could not start, the previous one failed, or the folder has this step
            already.
          ValueError: JSON cannot hold ``data``.
        """
        assert self._files is not None, "opened read-only, or closed"
        self.wait()
        best = Best(step, value, self.config.best_by, self.config.best_is) if self.improves(value) else None
        if step == self._last_step:
            self._note_best(best)
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
        leaves, began = named_leaves(state), time.monotonic()
        with jax.transfer_guard("allow"):
            self._refuse_not_finite(step, leaves)
        with self._failures_of(step), jax.transfer_guard("allow"):
            keys = {name: str(jax.random.key_impl(leaf)) for name, leaf in leaves.items() if is_key(leaf)}
            contents = {"format": FORMAT, "leaves": described(leaves), "keys": keys, "data": data}
            parts = by_part({n: jax.random.key_data(leaf) if n in keys else leaf for n, leaf in leaves.items()})
            self._next_best = best
            writing = self._files.write(step, contents, parts)
        sealer = threading.Thread(
            target=self._seal, args=(step, writing, [CONTENTS, *parts], began), name=f"checksums of step {step}"
        )
        self.grace.begun_at = began
        sealer.start()
        self._saving, self._saved_at = (step, sealer), time.monotonic()
        return True

    def _refuse_not_finite(self, step: int, leaves: Leaves) -> None:
        bad = not_finite(leaves)
        if bad:
            newest = max(self.steps(), default=None)
            reason = f"after its update {some(bad)} is not finite"
            raise NonFiniteState(
                f"step {step}: {reason}; not saved. Last good checkpoint: {'none yet' if newest is None else newest}. "
                f"A lower learning rate, a longer warm-up or gradient clipping usually cures this",
                step=step,
                reason=reason,
            )

    def _seal(self, step: int, writing: Writing, parts: list[str], began: float) -> None:
        """Writes the checksums of a step whose save began at some time, then deletes the steps that are too old.

        It first waits until Orbax is done and all files that reading needs are there. It runs in a thread of its own.
        """
        try:
            writing.result()
        except Exception:  # Orbax raises it again in wait(), in the caller's thread.
            return
        if jax.process_index() == 0:
            try:
                missing = missing_file(self.folder / str(step), parts)
                if missing is not None:
                    aside = set_aside(self.folder, step)
                    raise CheckpointError(f"{missing} is missing after the save, set aside as {aside}")
                write_sums(self.folder / str(step))
                if self._next_best is not None:
                    write_best(self.folder, self._next_best)
                if self.mirror is not None:
                    self.mirror.push(step)
                self._delete_old()
            except (OSError, CheckpointError) as error:
                self._seal_error = error
                return
        copying = 0.0 if self.mirror is None else self.mirror.copy_seconds
        self.grace.saved(time.monotonic() - began + copying)

    def _delete_old(self) -> None:
        steps = self.steps()
        kept = self.config.kept(steps, best=[one.step for one in (self._best, self._next_best) if one is not None])
        if self.mirror is not None:
            kept |= self.mirror.pending()
        self._not_deleted = delete_steps(self.folder, [step for step in steps if step not in kept])

    def delete_after(self, step: int) -> None:
        """Deletes the checkpoints of all steps after ``step``, also in object storage; no save may be under way.

        Raises:
          CheckpointError: object storage does not allow it.
        """
        assert self._files is not None and self._saving is None, "opened read-only, closed, or saving"
        if self.mirror is not None:
            self.mirror.delete_after(step)
        if jax.process_index() == 0:
            for problem in delete_steps(self.folder, [later for later in self.steps() if later > step]):
                self._notify(problem)
        from_primary(step)
        self._files.reload()
        self._best = read_best(self.folder)
        self._last_step = None

    def _note_best(self, best: Best | None) -> None:
        if best is not None:
            self._best = best
            if jax.process_index() == 0:
                write_best(self.folder, best)
            if self.mirror is not None:
                self.mirror.push(best.step)

    def wait(self) -> None:
        """Waits until no save is under way.

        Raises:
          CheckpointError: the save failed; earlier checkpoints are intact.
        """
        if self._saving is None:
            return
        (step, sealer), self._saving = self._saving, None
        sealer.join()
        best, self._next_best = self._next_best, None
        with self._failures_of(step):
            assert self._files is not None
            self._files.wait()
            error, self._seal_error = self._seal_error, None
            if error is not None:
                raise error
        problems, self._not_deleted = self._not_deleted, []
        for problem in problems:
            self._notify(f"checkpoint of step {step} is saved; {problem}")
        self._last_step = step
        self._best = best or self._best

    @contextlib.contextmanager
    def _failures_of(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._clear_unfinished()
            if self._files is not None:
                self._files.reload()
            intact = [done for done in self.steps() if done != step]
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self.folder}: {first_line(error)}; "
                f"{remedy(error)}; "
                + (f"the checkpoints of steps {intact} are intact" if intact else "there is no earlier checkpoint")
            ) from error
