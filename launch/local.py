#!/usr/bin/env python3
"""Runs one command as several processes of this machine that form one jax run.

    python launch/local.py --processes 2 -- lmjax train configs/stdlib_demo.py

Each process is told its number through the variables that ``lmjax.parallel.distributed`` reads; its
lines come out with ``[number]`` in front. On CPU the processes talk through gloo. SIGTERM and
Ctrl-C are passed on, so that the run saves and stops; when one process fails the others are ended,
and the exit code is that of the one that failed first. When this program itself is killed, or its
terminal goes, the processes are killed too. Needs nothing but Python.

    python launch/local.py --processes 4 --min-processes 2 --restarts 100 -- lmjax train RECIPE

starts the run again after a fault, with the processes that can be started: one that keeps a start from coming up (it
ends, or does not come, before all have joined) is left out of the next one, as long as two are left. After a fault of a
run that had come up, all places are tried again. Exit codes 0 and 2 are final, but a smaller group that is refused with
2 (a batch that it does not divide) is tried once more with one process less. ``LMJAX_PLACE`` tells a process its place,
from 0, which stays the same, while the processes of each start are numbered without gaps.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import TextIO

SETTLE_SECONDS = 0.3
"""How long we wait after the first failure before we say which process it was."""
PAUSE_SECONDS = 1.0
"""How long we wait before all places are started again; twice as long each time that this has not helped."""
LONGEST_PAUSE = 60.0


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; everything after ``--`` is the command."""
    parser = argparse.ArgumentParser(
        description="Runs one command as several processes of this machine that form one jax run."
    )
    parser.add_argument("--processes", type=int, default=2, help="number of processes (2)")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices of each process (1)")
    parser.add_argument("--platform", default="cpu", help="JAX_PLATFORMS of the processes (cpu)")
    parser.add_argument("--restarts", type=int, default=0, help="times to start all again after a fault (0)")
    parser.add_argument("--min-processes", type=int, help="go on with so few if others cannot be started (all)")
    parser.add_argument("--grace", type=float, default=5.0, help="seconds the others get once one has failed (5)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command, after --")
    options = parser.parse_args(arguments)
    options.command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not options.command:
        parser.error("say what to run after --, as in: local.py --processes 2 -- lmjax train RECIPE")
    if options.processes < 1 or options.devices < 1:
        parser.error("--processes and --devices must be at least 1")
    if options.restarts < 0:
        parser.error("--restarts must be at least 0")
    if options.min_processes is None:
        options.min_processes = options.processes
    elif not 1 <= options.min_processes <= options.processes:
        parser.error(f"--min-processes must be from 1 to --processes ({options.processes})")
    elif options.restarts == 0:
        parser.error("--min-processes needs --restarts: how often to start again")
    return options


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclasses.dataclass
class Group:
    """The processes of one start."""

    places: list[int]
    """The place of each."""
    signs: pathlib.Path
    """A folder in which each says how far it has come, see ``lmjax.parallel.distributed.tell_launcher``."""
    processes: list[subprocess.Popen] = dataclasses.field(default_factory=list)

    def having(self, sign: str) -> set[int]:
        """The processes that have left this sign."""
        return {int(path.suffix[1:]) for path in self.signs.glob(f"{sign}.*")}


def launch(options: argparse.Namespace, group: Group, process_id: int, port: int) -> subprocess.Popen:
    """Starts one process, its output not yet read."""
    environment = os.environ | {
        "LMJAX_COORDINATOR": f"127.0.0.1:{port}",
        "LMJAX_NUM_PROCESSES": str(len(group.places)),
        "LMJAX_PROCESS_ID": str(process_id),
        "LMJAX_PLACE": str(group.places[process_id]),
        "LMJAX_SIGNS": str(group.signs),
        "JAX_PLATFORMS": options.platform,
        "JAX_NUM_CPU_DEVICES": str(options.devices),
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        options.command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A session of its own: otherwise Ctrl-C would reach it twice, from the terminal and from us.
        start_new_session=True,
    )


def start_guardian() -> int:
    """Forks a process that kills ours when this one is gone, however it ends; returns where to write their ids.

    It reads the ids, and ``done`` after those that have ended, from a pipe that only this program holds open, and acts
    when the pipe ends.
    """
    read_end, write_end = os.pipe()
    if os.fork() != 0:
        os.close(read_end)
        return write_end
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        # Whoever reads our output should see its end although the guardian still runs.
        os.dup2(nowhere, standard)
    os.close(write_end)
    with open(read_end) as pipe:
        running = pipe.read().rpartition("done")[2].split()
    for process_id in running:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(int(process_id), signal.SIGKILL)
    os._exit(0)


def write_line(target: TextIO | None, text: str) -> None:
    """Writes a line where somebody reads it: a run does not end because its terminal has gone."""
    if target is None:
        return
    try:
        target.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]
        target.write(f"{text}\n")
        target.flush()
    except OSError:
        # What is left in its buffer too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), target.fileno())


def relay(source, target: TextIO | None, place: int) -> None:
    """Copies lines until the process closes its end."""
    for line in source:
        write_line(target, f"[{place}] {line.decode(errors='replace').rstrip()}")


def signal_all(processes: list[subprocess.Popen], number: int) -> None:
    """Sends a signal to each process that still runs, and to what it started."""
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


def first_to_fail(codes: list[int | None]) -> int:
    """The number of the process that failed by itself, of several that have ended at about the same time.

    A process that another one brings down ends with 1, or is aborted by jax's runtime, so any other code is the
    cause. Otherwise it is the lowest number: process 0 holds the coordinator, so its end brings down all others.
    """
    failed = [i for i, code in enumerate(codes) if code]
    return next((i for i in failed if codes[i] not in (1, -signal.SIGABRT)), failed[0])


def to_leave_out(codes: list[int | None], came: set[int], joined: set[int]) -> set[int]:
    """The processes without which the next start may succeed; none if this one had come up before the fault.

    ``codes`` has what each had ended with shortly after the first failure, and None for those that still ran. ``came``
    are those that had begun to look for the others, and ``joined`` those that had found them all.
    """
    if joined:
        return set()
    absent = set(range(len(codes))) - came
    ended = {i for i, code in enumerate(codes) if code}
    # One that has come and ends may have waited in vain for one that hangs.
    return ended & absent or absent or {first_to_fail(codes)}


def wait(group: Group, grace: float) -> tuple[int, set[int]]:
    """Waits for all; when one fails, says which, and ends the others.

    Returns the first failure's exit code, or 0; and the places to leave out of the next start.
    """
    processes = group.processes
    failed: int | None = None
    useless: set[int] = set()
    deadline = float("inf")
    while True:
        codes = [process.poll() for process in processes]
        if failed is None and any(codes):
            # One end brings others down within milliseconds, and we may see theirs before its own.
            time.sleep(SETTLE_SECONDS)
            codes = [process.poll() for process in processes]
            failed = first_to_fail(codes)
            useless = to_leave_out(codes, group.having("came"), group.having("joined"))
            then = ": ending the others" if None in codes else ""
            write_line(sys.stderr, f"process {group.places[failed]} failed with {codes[failed]}{then}")
            signal_all(processes, signal.SIGTERM)
            deadline = time.monotonic() + grace
        if None not in codes:
            break
        if time.monotonic() > deadline:
            # It is waiting in a collective for the one that is gone and cannot hear SIGTERM.
            signal_all(processes, signal.SIGKILL)
        time.sleep(0.02)
    code = 0 if failed is None else codes[failed] or 0
    return code if code >= 0 else 128 - code, {group.places[i] for i in useless}


class Launcher:
    """Starts groups of processes, one after the other, and passes signals on to those that run."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.told: int | None = None
        self._told = threading.Event()
        self._processes: list[subprocess.Popen] = []
        self._guardian = start_guardian()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: object) -> None:
        self.told = self.told or number
        self._told.set()
        signal_all(self._processes, number)

    def pause(self, seconds: float) -> None:
        """Waits, but not after a signal."""
        self._told.wait(seconds)

    def run(self, places: list[int]) -> tuple[int, set[int]]:
        """Starts a process at each place, and waits for all, see :func:`wait`."""
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="lmjax-launch-") as signs:
            self._processes.clear()
            group = Group(places, pathlib.Path(signs), self._processes)
            try:
                for process_id in range(len(places)):
                    self._processes.append(launch(self.options, group, process_id, port))
                    os.write(self._guardian, f"{self._processes[-1].pid}\n".encode())
            except OSError as error:
                write_line(sys.stderr, f"error: cannot run {self.options.command[0]}: {error.strerror}")
                signal_all(self._processes, signal.SIGKILL)
                return 2, set()
            if self.told is not None:
                # The signal may have come before the last of them was there.
                signal_all(self._processes, self.told)
            readers = [
                threading.Thread(target=relay, args=(source, target, place), daemon=True)
                for place, process in zip(places, self._processes, strict=True)
                for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
            ]
            for reader in readers:
                reader.start()
            ended = wait(group, self.options.grace)
            for reader in readers:
                # Not for ever: something the process started may hold its output open.
                reader.join(timeout=5)
        os.write(self._guardian, b"done\n")
        return ended


def next_places(options: argparse.Namespace, places: list[int], code: int, useless: set[int]) -> tuple[list[int], str]:
    """The places of the next start, empty if there should be none, and the reason for people."""
    everyone = list(range(options.processes))
    fewest = f"--min-processes {options.min_processes}"
    if code == 2:
        why = f"{len(places)} processes were refused, the reason is above"
        if len(places) < len(everyone):
            return (places[:-1], why) if len(places) > options.min_processes else ([], f"{why}; {fewest}")
        return [], why
    if not useless:
        return everyone, "a fault"
    why = "could not start: " + ", ".join(f"process {place}" for place in sorted(useless))
    left = [place for place in places if place not in useless]
    return (left, why) if len(left) >= options.min_processes else (everyone, f"{why}; {fewest}")


def supervise(launcher: Launcher) -> int:
    """Runs the command until it is done, refused or told to stop, or has no restarts left; returns its exit code."""
    options = launcher.options
    places, pause = list(range(options.processes)), PAUSE_SECONDS
    for restart in range(1, options.restarts + 2):
        code, useless = launcher.run(places)
        if launcher.told is not None or code == 0 or options.restarts == 0:
            return code
        left, why = next_places(options, places, code, useless)
        if not left or restart > options.restarts:
            write_line(sys.stderr, f"launcher: {why}: giving up after {restart - 1} of {options.restarts} restarts")
            return code
        write_line(
            sys.stderr,
            f"launcher: {why}: starting {len(left)} of {options.processes} processes "
            f"(restart {restart} of {options.restarts})",
        )
        if len(left) == options.processes:
            launcher.pause(pause)
        pause = min(2 * pause, LONGEST_PAUSE) if useless else PAUSE_SECONDS
        places = left
        if launcher.told is not None:
            return 128 + launcher.told
    raise AssertionError("the last restart returns")


def main() -> int:
    """Runs the command line."""
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="lmjax-launch-") as folder:
        # Where the processes note which storages have answered, see lmjax.remote.answered.
        os.environ.setdefault("LMJAX_ANSWERED", os.path.join(folder, "answered"))
        return supervise(Launcher(options))


if __name__ == "__main__":
    sys.exit(main())
