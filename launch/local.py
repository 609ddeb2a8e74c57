#!/usr/bin/env python3
"""Runs one command as several processes of this machine that form one jax run.

    python launch/local.py --processes 2 -- lmjax train configs/stdlib_demo.py

Each process is told its number through the variables that ``lmjax.parallel.distributed`` reads; its
lines come out with ``[number]`` in front. On CPU the processes talk through gloo. SIGTERM and
Ctrl-C are passed on, so that the run saves and stops; when one process fails the others are ended,
and the exit code is that of the one that failed first. When this program itself is killed, or its
terminal goes, the processes are killed too. Needs nothing but Python.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TextIO

SETTLE_SECONDS = 0.3
"""How long we wait after the first failure before we say which process it was."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; everything after ``--`` is the command."""
    parser = argparse.ArgumentParser(
        description="Runs one command as several processes of this machine that form one jax run."
    )
    parser.add_argument("--processes", type=int, default=2, help="number of processes (2)")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices of each process (1)")
    parser.add_argument("--platform", default="cpu", help="JAX_PLATFORMS of the processes (cpu)")
    parser.add_argument("--grace", type=float, default=5.0, help="seconds the others get once one has failed (5)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the command, after --")
    options = parser.parse_args(arguments)
    options.command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not options.command:
        parser.error("say what to run after --, as in: local.py --processes 2 -- lmjax train RECIPE")
    if options.processes < 1 or options.devices < 1:
        parser.error("--processes and --devices must be at least 1")
    return options


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(options: argparse.Namespace, process_id: int, port: int) -> subprocess.Popen:
    """Starts one process, its output not yet read."""
    environment = os.environ | {
        "LMJAX_COORDINATOR": f"127.0.0.1:{port}",
        "LMJAX_NUM_PROCESSES": str(options.processes),
        "LMJAX_PROCESS_ID": str(process_id),
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

    It reads the ids from a pipe that only this program holds open, and acts when the pipe ends.
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
        words = pipe.read().split()
    if "done" not in words:
        for process_id in words:
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


def relay(source, target: TextIO | None, process_id: int) -> None:
    """Copies lines until the process closes its end."""
    for line in source:
        write_line(target, f"[{process_id}] {line.decode(errors='replace').rstrip()}")


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


def wait(processes: list[subprocess.Popen], grace: float) -> int:
    """Waits for all, ends the others when one fails, and returns the first failure's code or 0."""
    failed: int | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in processes):
        codes = [process.poll() for process in processes]
        if failed is None and any(codes):
            # One end brings others down within milliseconds, and we may see theirs before its own.
            time.sleep(SETTLE_SECONDS)
            codes = [process.poll() for process in processes]
            failed = first_to_fail(codes)
            write_line(sys.stderr, f"process {failed} failed with {codes[failed]}: ending the others")
            signal_all(processes, signal.SIGTERM)
            deadline = time.monotonic() + grace
        if time.monotonic() > deadline:
            # It is waiting in a collective for the one that is gone and cannot hear SIGTERM.
            signal_all(processes, signal.SIGKILL)
        time.sleep(0.02)
    codes = [process.returncode for process in processes]
    code = codes[failed] if failed is not None else next(filter(None, codes), 0)
    return code if code >= 0 else 128 - code


def main() -> int:
    """Runs the command line."""
    options = parse_arguments()
    port = free_port()
    processes: list[subprocess.Popen] = []
    guardian = start_guardian()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, _: signal_all(processes, number))
    try:
        for process_id in range(options.processes):
            processes.append(launch(options, process_id, port))
            os.write(guardian, f"{processes[-1].pid}\n".encode())
    except OSError as error:
        write_line(sys.stderr, f"error: cannot run {options.command[0]}: {error.strerror}")
        return 2
    readers = [
        threading.Thread(target=relay, args=(source, target, i), daemon=True)
        for i, process in enumerate(processes)
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    ]
    for reader in readers:
        reader.start()
    code = wait(processes, options.grace)
    for reader in readers:
        # Not for ever: something the process started may hold its output open.
        reader.join(timeout=5)
    os.write(guardian, b"done\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
