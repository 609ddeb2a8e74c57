"""Notices that a machine of Google Cloud is about to be stopped, for maintenance or because it is preempted.

The metadata server of each machine tells (``instance/maintenance-event`` and ``instance/preempted``). Machines with
TPUs or GPUs are stopped for maintenance; others move to another host meanwhile, which does not concern a run.
"""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

HOST_VARIABLE = "GCE_METADATA_HOST"
"""The environment variable that names another metadata server, as for Google's own libraries."""
HOST = "metadata.google.internal"
SECONDS = 5.0
"""Time between two questions, and the longest time of an answer."""
_ENDS = {"maintenance-event": ("TERMINATE_ON_HOST_MAINTENANCE",), "preempted": ("TRUE",)}


class Notices:
    """Asks for notices in a thread, until the block ends or one has come."""

    def __init__(self, notice: Callable[[str], object], *, seconds: float = SECONDS):
        """Asks once.

        Args:
          notice: called, in another thread, with what is about to happen.
          seconds: the time between two questions.

        Raises:
          ValueError: there is no metadata server.
        """
        self._notice, self._seconds = notice, seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="maintenance notices", daemon=True)
        try:
            _ask("maintenance-event")
        except OSError as error:
            raise ValueError(
                f"train.maintenance_notices=True: the metadata server {_host()} does not answer ({error}): this is no "
                f"machine of Google Cloud; set it to False"
            ) from None

    def __enter__(self) -> "Notices":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.is_set():
            for name, values in _ENDS.items():
                try:
                    found = _ask(name)
                except OSError:  # It may answer the next time.
                    continue
                if found in values:
                    self._notice(f"notice of Google Cloud ({name} {found})")
                    return
            self._done.wait(self._seconds)


def _host() -> str:
    return os.environ.get(HOST_VARIABLE, HOST)


def _ask(name: str) -> str:
    """Returns the server's answer; empty if it does not know the question.

    Raises:
      OSError: it does not answer.
    """
    url = f"http://{_host()}/computeMetadata/v1/instance/{name}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        # A proxy of the environment does not lead to the metadata server.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=SECONDS) as answer:
            return answer.read(1000).decode(errors="replace").strip()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ""
        raise
