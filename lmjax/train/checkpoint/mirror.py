"""Copies the finished saves of a run folder to object storage, in the background.

A save becomes visible there by one small object that is written last (:mod:`lmjax.train.checkpoint.manifest`). A kill
at any moment leaves objects that nobody sees, which the next start deletes. Storage that fails for a while delays
saves. Only if the last one could not be copied when the run ends, the run ends with an error.
"""

import contextlib
import pathlib
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from lmjax.atomic_files import write_json
from lmjax.remote.bucket import Bucket, RemoteError
from lmjax.remote.lease import Lease, LeaseLostError
from lmjax.train.checkpoint.checksums import SUMS, first_mismatch, read_sums
from lmjax.train.checkpoint.config import CheckpointConfig
from lmjax.train.checkpoint.errors import CheckpointError, DamagedError
from lmjax.train.checkpoint.folder import BEST
from lmjax.train.checkpoint.manifest import (
    KNOWN_FOLDERS,
    SAVES,
    Manifest,
    hidden_name,
    hidden_steps,
    manifest_name,
    visible_steps,
)
from lmjax.train.checkpoint.remote import AT_ONCE, BEST_TEXT, CHECKPOINTS, LOOSE, best_of, digest_of, read_manifest

NEWEST = ".mirror.json"
"""The file of a run folder that says of which address it is a copy, and which save there it was last equal to."""
LOOSE_SECONDS = 60.0
"""How often the metrics are copied."""
_OF_STEP = re.compile(rf"{CHECKPOINTS}/(\d+)/.*")

Say = Callable[[str], object]


class Mirror:
    """The copy of a run folder in object storage. One thread writes it, which :meth:`close` ends."""

    def __init__(self, bucket: Bucket, folder: pathlib.Path, config: CheckpointConfig, *, lease: Lease, say: Say):
        """Begins to copy in the background.

        Args:
          bucket: the run in object storage.
          folder: the run folder.
          config: which checkpoints are kept, also in object storage.
          lease: the lease of the bucket, which must be held until :meth:`close` has returned.
          say: called with each line of text for a person.
        """
        self._bucket, self._folder, self._config, self._lease, self._say = bucket, folder, config, lease, say
        self._mutex = threading.RLock()
        self._texts: dict[int, Mapping[str, str]] = {}
        self._pending: dict[int, Mapping[str, str]] = {}
        self._error: Exception | None = None
        self._wake, self._closing = threading.Event(), False
        self._writing = threading.Lock()
        self._copied: dict[str, str | None] = {}
        self.copy_seconds = 0.0
        """How long the copy of the last save took; 0 before the first."""
        self._thread = threading.Thread(target=self._work, name="copy to object storage", daemon=True)
        self._thread.start()

    def describe(self, step: int, texts: Mapping[str, str]) -> None:
        """Sets the texts that describe a step (``config.json``, ``record.json``), before it is pushed."""
        with self._mutex:
            self._texts[step] = dict(texts)

    def push(self, step: int) -> None:
        """Copies a finished step in the background; its files must stay until it is no longer :meth:`pending`."""
        with self._mutex:
            texts = dict(self._texts.pop(step, {}))
            with contextlib.suppress(FileNotFoundError):
                texts[BEST_TEXT] = (self._folder / CHECKPOINTS / BEST).read_text(encoding="utf-8")
            self._pending[step] = texts
        self._wake.set()

    def pending(self) -> set[int]:
        """Returns the steps that are not visible yet; their files must not be deleted."""
        with self._mutex:
            return set(self._pending)

    def clear_unfinished(self) -> None:
        """Deletes the objects of saves whose copying a kill has interrupted.

        Raises:
          RemoteError: they cannot be deleted.
        """
        with self._writing:
            self._delete_invisible()

    def delete_after(self, step: int) -> None:
        """Deletes all later steps; they are invisible when this returns.

        Raises:
          CheckpointError: they cannot be deleted.
        """
        with self._writing:
            with self._mutex:
                self._pending = {one: texts for one, texts in self._pending.items() if one <= step}
            try:
                self._lease.confirm()
                later = [one for one in visible_steps(self._bucket.sizes(SAVES)) if one > step]
                self._bucket.delete(*map(manifest_name, later))
                self._delete_invisible()
            except (RemoteError, OSError) as error:
                raise CheckpointError(f"checkpoints after step {step} could not be deleted: {error}") from error

    def close(self) -> None:
        """Copies what is left, and ends the thread.

        Raises:
          CheckpointError: the last save could not be copied; the local copy has it.
        """
        self._closing = True
        self._wake.set()
        self._thread.join()
        if self._pending:
            raise CheckpointError(
                f"the checkpoint of step {max(self._pending)} could not be copied to {self._bucket.address} "
                f"({self._error}); it is intact in {self._folder}: the same command on this machine copies it"
            )

    def _work(self) -> None:
        while True:
            self._wake.wait(LOOSE_SECONDS)
            self._wake.clear()
            last = self._closing
            for _ in range(3 if last else 1):
                with self._writing:
                    self._copy_pending()
                if not self._pending:
                    break
            with contextlib.suppress(RemoteError, LeaseLostError, OSError):
                self._copy_loose()
            if last:
                return

    def _copy_pending(self) -> None:
        """Copies the steps that wait, the oldest first, but not one that would be deleted at once."""
        for step in sorted(self.pending()):
            with self._mutex:
                waiting, texts = sorted(self._pending), self._pending.get(step)
            if texts is None:
                continue
            try:
                visible = visible_steps(self._bucket.sizes(SAVES))
                if step in self._config.kept({*visible, *waiting}, best=self._best(texts)):
                    began = time.monotonic()
                    self._copy_step(step, texts)
                    self.copy_seconds = time.monotonic() - began
                    self._delete_old(step, texts)
                self._error = None
            except (RemoteError, LeaseLostError, CheckpointError, OSError, ValueError) as error:
                if self._error is None:
                    self._say(f"checkpoint of step {step}: not copied to {self._bucket.address} yet: {error}")
                self._error = error
                return
            with self._mutex:
                if self._pending.get(step) is texts:
                    del self._pending[step]

    def _copy_step(self, step: int, texts: Mapping[str, str]) -> None:
        own = self._folder / CHECKPOINTS / str(step)
        sums = read_sums(own)
        if sums is None:
            raise CheckpointError(f"{own} has no {SUMS}")
        bad = first_mismatch(own, sums)
        if bad is not None:
            raise CheckpointError(f"{own / bad} differs from its checksum")
        files = {f"{CHECKPOINTS}/{step}/{name}": digest for name, digest in sums.items()}
        files[f"{CHECKPOINTS}/{step}/{SUMS}"] = digest_of(own / SUMS) or ""
        for folder in KNOWN_FOLDERS:
            for path in sorted((self._folder / folder).rglob("*")):
                if path.is_file() and not path.name.startswith("."):
                    files[path.relative_to(self._folder).as_posix()] = digest_of(path) or ""
        self._lease.confirm()
        with contextlib.suppress(DamagedError):
            if read_manifest(self._bucket, step).files != files:
                # A step that the run does again. Its objects must not change while they are visible.
                self._bucket.delete(manifest_name(step))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda name: self._copy_file(name, files[name]), files))
        # A start on another machine needs the metrics of all steps before this one.
        self._copy_loose()
        self._bucket.write(manifest_name(step), Manifest(step=step, files=files, texts=texts).to_bytes())
        note_newest(self._folder, self._bucket.address, step)

    def _copy_file(self, name: str, digest: str) -> None:
        if self._copied.get(name) != digest:
            self._bucket.upload(self._folder / name, name)
            self._copied[name] = digest

    def _best(self, texts: Mapping[str, str]) -> list[int]:
        best = best_of(Manifest(step=0, files={}, texts=texts))
        return [] if best is None else [best]

    def _delete_old(self, step: int, texts: Mapping[str, str]) -> None:
        visible = visible_steps(self._bucket.sizes(SAVES))
        kept = self._config.kept(visible, best=self._best(texts))
        old = [one for one in visible if one not in kept and one != step]
        if old:
            self._bucket.delete(*map(manifest_name, old))
            self._delete_invisible()

    def _delete_invisible(self) -> None:
        """Deletes the objects of steps that are not visible: they were deleted, or their copying was interrupted."""
        names = self._bucket.sizes(SAVES)
        visible = {*visible_steps(names), *hidden_steps(names)}
        of_steps = ((name, _OF_STEP.fullmatch(name)) for name in self._bucket.sizes(CHECKPOINTS))
        doomed = [name for name, match in of_steps if match and int(match[1]) not in visible]
        self._bucket.delete(*doomed)
        for name in doomed:
            self._copied.pop(name, None)

    def _copy_loose(self) -> None:
        """Copies the metrics, and what describes a run that has no save yet."""
        self._lease.confirm()
        lines = [self._folder / name for name in LOOSE]
        paths = [*lines, self._folder / "config.json", *(self._folder / "tensorboard").glob("*")]
        for path in paths:
            name = path.relative_to(self._folder).as_posix()
            if not path.is_file():
                continue
            # The file may grow meanwhile, and its last line may be half written.
            state, content = f"{path.stat().st_size} {path.stat().st_mtime_ns}", path.read_bytes()
            if self._copied.get(name) != state:
                self._bucket.write(name, content[: content.rfind(b"\n") + 1] if name in LOOSE else content)
                self._copied[name] = state


def hide_damaged(bucket: Bucket, step: int) -> None:
    """Makes a damaged save invisible; its objects stay.

    Raises:
      RemoteError: it cannot be written.
    """
    content = bucket.read(manifest_name(step))
    if content is not None:
        bucket.write(hidden_name(step), content)
        bucket.delete(manifest_name(step))


def note_newest(folder: pathlib.Path, address: str, step: int | None) -> None:
    """Writes down which save in object storage a run folder is equal to, or goes on from."""
    write_json(folder / NEWEST, {"address": address, "newest": step})
