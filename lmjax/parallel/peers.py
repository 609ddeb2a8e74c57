"""Ends the processes of a run when one of them has ended without a word, on whatever devices they compute.

A collective that waits for a dead process may wait for minutes (NCCL) or for ever. Each process therefore keeps an open
connection to process 0, and the system of a process that dies closes it at once. Process 0 tells the others which one
it was. A process that ends in order says so first. Of a machine that is switched off the system says nothing; its
connection is found dead after about 25 seconds (:data:`KEEPALIVE`).
"""

import contextlib
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable

BYE = b"bye"
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""When the system asks a silent machine: after 10 s, then every 5 s; after three questions it counts as gone."""
CONNECT_SECONDS = 30.0
GRACE_SECONDS = 1.0
"""How long a process may go on after the end of a peer, so that its own signal or error can end it first."""
_MESSAGE_BYTES = 4

Ended = Callable[[int], object]
"""Called with the number of a process that has ended without a word."""


def end_this_process(process: int) -> None:
    """Says which process has ended, and ends this one with code 1 shortly after."""
    with contextlib.suppress(OSError):
        text = f"error: process {process} has ended (its own message, if any, says why): ending this one, too\n"
        os.write(2, text.encode())
    time.sleep(GRACE_SECONDS)
    os._exit(1)


class Hub:
    """Process 0's end of the connections."""

    def __init__(self, host: str, *, num_processes: int, ended: Ended = end_this_process):
        """Begins to listen, and to watch the processes that connect.

        Args:
          host: the address to listen on; empty for all of this machine's.
          num_processes: the number of all processes.
          ended: called once, in another thread, for a process that has ended without a word.

        Raises:
          OSError: the address is not one of this machine.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, 0), family=family, backlog=num_processes)
        self.port: int = self._server.getsockname()[1]
        self.token = secrets.token_bytes(16)
        """What a process says first: whoever does not know it is no process of this run."""
        self._num_processes, self._ended = num_processes, ended
        self._peers: dict[int, socket.socket] = {}
        self._closed = False
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            self._server.settimeout(1.0)
            deadline = time.monotonic() + CONNECT_SECONDS
            while len(self._peers) < self._num_processes - 1 and time.monotonic() < deadline and not self._closed:
                with contextlib.suppress(OSError):
                    self._admit(*self._server.accept())
            self._server.close()
            for process, connection in self._peers.items():
                selector.register(connection, selectors.EVENT_READ, process)
            while selector.get_map() and not self._closed:
                for key, _ in selector.select():
                    message = _receive(key.fileobj)  # type: ignore[arg-type]
                    selector.unregister(key.fileobj)
                    if message != BYE and not self._closed:
                        self._tell_others(key.data)
                        self._ended(key.data)
                        return

    def _admit(self, connection: socket.socket, _address: object) -> None:
        connection.settimeout(5.0)
        hello = connection.recv(len(self.token) + _MESSAGE_BYTES, socket.MSG_WAITALL)
        process = int.from_bytes(hello[len(self.token) :], "big")
        if not secrets.compare_digest(hello[: len(self.token)], self.token) or process in self._peers:
            connection.close()
            return
        _keep_alive(connection)
        self._peers[process] = connection

    def _tell_others(self, ended: int) -> None:
        for process, connection in self._peers.items():
            if process != ended:
                with contextlib.suppress(OSError):
                    connection.sendall(ended.to_bytes(_MESSAGE_BYTES, "big"))

    def close(self) -> None:
        """Tells the others that this process ends in order."""
        self._closed = True
        for connection in self._peers.values():
            _say_goodbye(connection)


class Spoke:
    """The end of the connection of every other process."""

    def __init__(self, host: str, port: int, token: bytes, *, process: int, ended: Ended = end_this_process):
        """Connects to process 0 and begins to watch it.

        Args:
          host: the address of process 0.
          port: the port on which its :class:`Hub` listens.
          token: the token of this hub.
          process: the number of this process.
          ended: called once, in another thread, for a process that has ended without a word.

        Raises:
          OSError: process 0 cannot be reached.
        """
        self._ended, self._closed = ended, False
        self._connection = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
        _keep_alive(self._connection)
        self._connection.sendall(token + process.to_bytes(_MESSAGE_BYTES, "big"))
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def _watch(self) -> None:
        message = _receive(self._connection)
        if message != BYE and not self._closed:
            # Without a message, process 0 itself is gone.
            self._ended(int.from_bytes(message, "big"))

    def close(self) -> None:
        """Tells process 0 that this process ends in order."""
        self._closed = True
        _say_goodbye(self._connection)


def _keep_alive(connection: socket.socket) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _receive(connection: socket.socket) -> bytes:
    """Returns the next message, empty when the other end is gone."""
    try:
        return connection.recv(_MESSAGE_BYTES)
    except OSError:
        return b""


def _say_goodbye(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(BYE)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


def warn_not_watched(error: Exception) -> None:
    """Says that the end of a peer will be noticed only by the libraries or by the watchdog."""
    print(
        f"warning: process 0 cannot be watched ({error}): if a process dies, the others may wait for the watchdog",
        file=sys.stderr,
        flush=True,
    )
