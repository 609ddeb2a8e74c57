"""A lease: an object that says which process writes to a folder, and that this process renews while it lives.

A lock of the system ends with its process, but it reaches neither a bucket nor every shared file system. A lease is
renewed every few seconds. It may be taken over once nobody has renewed it for ``seconds``, by the clock of the process
that waits: no two clocks are compared. On the machine of a process that is dead, nobody waits.
"""

import contextlib
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from lmjax.remote.bucket import Bucket, Folder, RemoteError

LEASE = "lease.json"
SECONDS = 60.0
"""How long a lease lasts that is not renewed."""
BEATS = 6
"""How often it is renewed in this time."""


class LeaseHeldError(ValueError):
    """Another process holds the lease."""


class LeaseLostError(RuntimeError):
    """Another process has taken the lease over, because it was not renewed in time."""


def end_this_process(error: LeaseLostError) -> None:
    """Ends the process at once: it must not write any more."""
    with contextlib.suppress(OSError):
        os.write(2, f"error: {error}\n".encode())
    os._exit(1)


class Lease:
    """A lease that this process holds; :func:`leased` makes one."""

    def __init__(
        self, store: Bucket | Folder, doing: str, *, seconds: float, name: str, lost: Callable[[LeaseLostError], object]
    ):
        """Prepares a lease; :meth:`take` takes it."""
        self._store, self._name, self._seconds, self._lost = store, name, seconds, lost
        self._facts = {"owner": secrets.token_hex(8), "doing": doing, "host": socket.gethostname(), "pid": os.getpid()}
        self._facts |= {"machine": _machine(), "seconds": seconds}
        self._beat = 0
        self._done = threading.Event()
        self._mutex = threading.Lock()
        self._content = b""

    def take(self, notify: Callable[[str], object]) -> None:
        """Takes the lease, if needed after the time in which the process that held it would have renewed it.

        Args:
          notify: called with one line if it has to wait.

        Raises:
          LeaseHeldError: another process renews it.
          RemoteError, OSError: the storage does not allow it.
        """
        seen: bytes | None = None
        until = 0.0
        while True:
            found = self._store.read(self._name)
            own = self._next()
            if found is None:
                if self._store.create(self._name, own):
                    break
                continue
            holder = _read(found)
            if found != seen and not _is_dead(holder):
                if seen is not None and _read(seen).get("owner") == holder.get("owner"):
                    raise LeaseHeldError(
                        f"{self._store.address} {_described(holder)}: wait until it is done, end it, or choose another "
                        f"folder"
                    )
                seen, wait = found, _seconds_of(holder, self._seconds)
                until = time.monotonic() + wait
                notify(f"{self._store.address} {_described(holder)}: waiting up to {wait:.0f} s to see if it is alive")
            if (_is_dead(holder) or time.monotonic() > until) and self._store.replace(self._name, found, own):
                notify(f"{self._store.address} {_described(holder)}, which is gone: taken over")
                break
            time.sleep(min(1.0, self._seconds / 20))
        self._content = own
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    def confirm(self) -> None:
        """Makes sure that this process still holds the lease.

        Raises:
          LeaseLostError: another process has taken it over.
          RemoteError, OSError: it cannot be read.
        """
        with self._mutex:
            found = self._store.read(self._name)
        if found is None or _read(found).get("owner") != self._facts["owner"]:
            by = "nobody" if found is None else _described(_read(found))
            raise LeaseLostError(
                f"{self._store.address}: the lease of this process was not renewed in time and is lost (now: {by}): "
                f"this process stops writing there. What it has saved is intact"
            )

    def release(self) -> None:
        """Gives the lease back, unless another process holds it now."""
        self._done.set()
        with contextlib.suppress(LeaseLostError, RemoteError, OSError):
            self.confirm()
            self._store.delete(self._name)

    def _renew(self) -> None:
        while not self._done.wait(self._seconds / BEATS):
            try:
                self.confirm()
                with self._mutex:
                    if not self._done.is_set():
                        self._content = self._next()
                        self._store.write(self._name, self._content)
            except LeaseLostError as error:
                if not self._done.is_set():
                    self._lost(error)
                return
            except (RemoteError, OSError):
                # The network may come back in time; if not, the next confirmation finds the lease lost.
                continue

    def _next(self) -> bytes:
        self._beat += 1
        now = time.time()
        text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        return (json.dumps(self._facts | {"beat": self._beat, "time": text, "seconds_since_1970": now}) + "\n").encode()


@contextlib.contextmanager
def leased(
    store: Bucket | Folder,
    doing: str,
    *,
    seconds: float = SECONDS,
    name: str = LEASE,
    notify: Callable[[str], object] = print,
    lost: Callable[[LeaseLostError], object] = end_this_process,
) -> Iterator[Lease]:
    """Holds the lease of a folder until the block ends.

    Args:
      store: the folder.
      doing: what happens to the folder, such as "is being trained"; the message to other processes says it.
      seconds: how long the lease lasts if it is not renewed.
      name: the name of its object.
      notify: called with each line of text for a person.
      lost: called, in another thread, if another process has taken the lease over.

    Raises:
      LeaseHeldError: another process holds it.
      RemoteError, OSError: the storage does not allow it.
    """
    lease = Lease(store, doing, seconds=seconds, name=name, lost=lost)
    lease.take(notify)
    try:
        yield lease
    finally:
        lease.release()


def looks_alive(content: bytes) -> bool:
    """Returns whether a lease was renewed in its time, by the clocks of its holder and of this machine.

    This is good enough to show a person, and not to take a lease over.
    """
    holder = _read(content)
    renewed = holder.get("seconds_since_1970")
    return isinstance(renewed, int | float) and abs(time.time() - renewed) < 2 * _seconds_of(holder, SECONDS)


def _machine() -> str | None:
    """Returns what tells this system, with its numbers of processes, from others; None if it is not known."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def _is_dead(holder: dict[str, Any]) -> bool:
    """Returns whether the holder was a process of this machine that has ended."""
    pid = holder.get("pid")
    if holder.get("machine") is None or holder.get("machine") != _machine() or not isinstance(pid, int) or pid < 1:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _read(content: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _seconds_of(holder: dict[str, Any], usual: float) -> float:
    seconds = holder.get("seconds")
    return min(float(seconds), 10 * SECONDS) if isinstance(seconds, int | float) and seconds > 0 else usual


def _described(holder: dict[str, Any]) -> str:
    if not holder:
        return f"has a {LEASE} that cannot be read"
    words = {name: str(holder.get(name, "?"))[:100] for name in ("doing", "pid", "host", "time")}
    return f"{words['doing']} by process {words['pid']} on {words['host']} (last sign {words['time']})"


def warn(text: str) -> None:
    """Prints a line to standard error."""
    print(text, file=sys.stderr, flush=True)
