"""Named arrays in one folder, step by step, as Orbax stores them. No other file uses Orbax."""

import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from orbax.checkpoint import v1 as ocp

from lmjax.train.checkpoint.folder import DELETED, FETCHED

CONTENTS = "contents"
Writing: TypeAlias = ocp.AsyncResponse
"""A write in the background, which can be waited for."""
PLAIN = re.compile(r"[A-Za-z0-9_./=,+@-]+")
NEEDED = {CONTENTS: ("data.json",)}
NEEDED_OF_ARRAYS = ("_METADATA", "manifest.ocdbt")


class Storage:
    """Writes and reads the steps of a folder.

    Orbax reads its own paths as glob patterns and takes some for addresses of other storage. Below a folder called
    ``lr[1e-3]``, for example, it could not read what it has written. Orbax is therefore given a plain name for such a
    folder: a symbolic link in a temporary folder, which exists as long as this object.
    """

    def __init__(self, folder: pathlib.Path, *, writes: bool = False):
        """Opens a folder that exists.

        Args:
          folder: an absolute path.
          writes: whether steps are written as well.

        Raises:
          OSError: there is no place for a link, or the folder cannot be read.
        """
        self._alias: tempfile.TemporaryDirectory | None = None
        self._path = folder
        if not PLAIN.fullmatch(str(folder)):
            self._alias = tempfile.TemporaryDirectory(prefix="lmjax-checkpoints-")
            self._path = pathlib.Path(self._alias.name) / "folder"
            self._path.symlink_to(folder, target_is_directory=True)
        self._writer = self._open_writer() if writes else None

    def _open_writer(self) -> ocp.training.Checkpointer:
        context = ocp.Context()
        context.checkpointables.registry = ocp.handlers.local_registry()
        context.checkpointables.registry.add(ocp.handlers.JsonHandler, checkpointable_name=CONTENTS)
        # Orbax would end the save, and so the run, if it could not delete an old step; `delete_steps` deletes instead.
        keep_all = ocp.training.preservation_policies.PreserveAll()
        return ocp.training.Checkpointer(self._path, context=context, preservation_policy=keep_all)

    def write(self, step: int, contents: Any, parts: Mapping[str, Any]) -> Writing:
        """Copies the arrays from the devices and writes them in the background."""
        assert self._writer is not None, "opened read-only, or closed"
        response = self._writer.save_checkpointables_async(step, {CONTENTS: contents, **parts}, force=True)
        assert response is not None
        return response

    def read(self, step: int, parts: Mapping[str, Any]) -> dict[str, Any]:
        """Returns parts of a step; ``parts`` gives the abstract arrays of each (for ``contents``: None)."""
        return ocp.load_checkpointables(self._path / str(step), dict(parts))

    def wait(self) -> None:
        """Waits until nothing is being written, and raises the error if a write failed."""
        assert self._writer is not None, "opened read-only, or closed"
        self._writer.wait()

    def reload(self) -> None:
        """Looks at the folder again, after other code has changed it."""
        if self._writer is not None:
            self._writer.reload()

    def close(self) -> None:
        """Ends Orbax's threads and removes the link."""
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        finally:
            if self._alias is not None:
                self._alias.cleanup()


def missing_file(step_folder: pathlib.Path, parts: Iterable[str]) -> str | None:
    """Returns the first missing file of those that reading these parts of a step needs; ``None`` if none is missing."""
    for part in parts:
        for name in NEEDED.get(part, NEEDED_OF_ARRAYS):
            if not (step_folder / part / name).is_file():
                return f"{part}/{name}"
    return None


def clear_unfinished(folder: pathlib.Path) -> None:
    """Deletes the remains of steps whose writing or deletion failed or was killed; Orbax overlooks some of them."""
    for pattern in ("*.orbax-checkpoint-tmp*", f"*{DELETED}", f"*{FETCHED}"):
        for unfinished in folder.glob(pattern):
            shutil.rmtree(unfinished, ignore_errors=True)
