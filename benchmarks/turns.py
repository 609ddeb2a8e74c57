"""Processes that take turns: the sides of a comparison share a machine, and whatever slows it slows all of them alike.

Each side is a process of its own, started once and kept. It answers requests on its standard input, one line of JSON
each, with the seconds that they took and with the most memory that it has used. Nothing here imports jax or torch, so
that a side may run in an interpreter that has only one of them.
"""

import contextlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def serve(work: Callable[[Any], object], *, facts: dict, peak: Callable[[], int] | None = None) -> None:
    """Answers each line of standard input after the work that it asks for; called by a side when it is ready.

    Args:
      work: does what a request says, and returns when it is done.
      facts: what the side tells about itself before the first request (versions, parameters).
      peak: the most bytes that the side has used; those of the process unless given.
    """
    print(json.dumps({"ready": facts}), flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        try:
            work(json.loads(line))
        except Exception as error:  # a library may refuse one request, for want of memory or of a kernel
            lines = [part.strip() for part in str(error).splitlines() if part.strip()]
            print(json.dumps({"refused": f"{type(error).__name__}: {' '.join(lines[:1])}"}), flush=True)
            continue
        seconds = time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, "peak_bytes": (peak or resident_peak)()}), flush=True)


def resident_peak() -> int:
    """The most memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class SideError(Exception):
    """A side has ended by itself, or has refused a request; the message is the error that it wrote.

    Attributes:
      side: the side.
    """

    def __init__(self, side: "Side", message: str):
        super().__init__(message)
        self.side = side


class Side:
    """A process that takes turns with others.

    Args:
      command: its command line; the process calls :func:`serve`.
      environment: variables that are added to this process's.

    Attributes:
      facts: what it told about itself, once :meth:`wait` has returned.
      peak_bytes: the most memory that it had used at its last answer.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None):
        self.facts: dict = {}
        self.peak_bytes = 0
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115, it is read when the process has ended
        self._process = subprocess.Popen(
            list(command),
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def wait(self) -> "Side":
        """Waits until the process has compiled, and returns this side."""
        self.facts = self._answer("ready")
        return self

    def seconds(self, request: Any) -> float:
        """Returns how long the process took for a request."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()
        return self._answer("seconds")

    def close(self) -> None:
        """Lets the process end, and waits for it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self, key: str) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # Libraries print lines of their own.
            if line.startswith('{"refused"'):
                raise SideError(self, json.loads(line)["refused"])
            if line.startswith(f'{{"{key}"'):
                answer = json.loads(line)
                self.peak_bytes = answer.get("peak_bytes", self.peak_bytes)
                return answer[key]
        self._fail()

    def _fail(self) -> None:
        code = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        # What follows the error of a traceback is advice.
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit)\b", line)]
        raise SideError(self, [*lines[-1:], *errors][-1] if lines else f"it ended with code {code}")


def take_turns(sides: Mapping[str, Side], request: Any, *, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds that each side took for the same request in each round, one side after the other."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            seconds[name].append(side.seconds(request))
    return seconds


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """Returns how many times as fast as theirs ours is: the median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
