"""The file ``metrics.jsonl``: a flat JSON object for each step. A kill loses no line; damaged lines are set aside."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from lmjax.atomic_files import write_file


def read_lines(path: pathlib.Path) -> tuple[list[dict[str, Any]], dict[int, bytes]]:
    """Returns the lines that hold a step and numbers, in order, and all other lines by their line number.

    A last line that a killed run left half written is in neither result.

    Raises:
      OSError: the file cannot be read.
    """
    texts = path.read_bytes().split(b"\n")
    lines, damaged = [], {}
    for number, text in enumerate(texts, start=1):
        line = parsed(text)
        if line is not None:
            lines.append(line)
        elif text.strip() and number < len(texts):
            damaged[number] = text
    return lines, damaged


def parsed(text: bytes) -> dict[str, Any] | None:
    """Returns a line as an object of numbers with a step; None if it is anything else."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):  # Text that is not UTF-8 raises a ValueError, too.
        return None
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        return None
    return line if line["step"] >= 0 and all(map(_is_number, line.values())) else None


def _is_number(value: object) -> bool:
    if value is None:  # The number was not finite.
        return True
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and float(value) is not None
    except OverflowError:
        return False


def _dumps(line: Mapping[str, Any]) -> str:
    finite = {name: value if value is not None and math.isfinite(value) else None for name, value in line.items()}
    return json.dumps(finite, allow_nan=False, ensure_ascii=False)


class JsonLines:
    """A file with one line for each step. Its old lines from ``first_step`` on are dropped.

    After a kill at any moment, all lines but perhaps the last are complete. Lines that cannot be read are
    moved to a file beside it. If the file is deleted or replaced while it is open, it is created again.
    """

    def __init__(self, path: pathlib.Path, *, first_step: int):
        kept, damaged = read_lines(path) if path.exists() else ([], {})
        self._path = path
        if damaged:
            self._set_aside(damaged)
        text = "".join(_dumps(line) + "\n" for line in kept if line["step"] < first_step)
        self._line: dict[str, Any] = {}
        self._descriptor = self._written_anew(text.encode())
        self._start = self._end = os.lseek(self._descriptor, 0, os.SEEK_END)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Appends a line, or adds to the last line if that is of the same step."""
        assert step >= self._line.get("step", step), (step, self._line)
        self._find_again()
        same = self._line.get("step") == step
        self._line = {**(self._line if same else {}), "step": step, **numbers}
        self._start = self._start if same else self._end
        # The new text covers the old line in one system call: a kill never loses what was there.
        text = _dumps(self._line).encode()
        text = text.ljust(self._end - self._start - 1) + b"\n"
        self._end = self._start + len(text)
        while text:
            text = text[os.pwrite(self._descriptor, text, self._end - len(text)) :]

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)

    def _written_anew(self, content: bytes) -> int:
        write_file(self._path, content)
        return os.open(self._path, os.O_RDWR | os.O_CLOEXEC)

    def _set_aside(self, damaged: Mapping[int, bytes]) -> None:
        aside = self._path.with_name(self._path.name + ".damaged")
        with aside.open("ab") as file:
            file.writelines(text + b"\n" for text in damaged.values())
        print(
            f"{self._path}: {len(damaged)} lines are no objects of numbers with a step (the first is line "
            f"{min(damaged)}): set aside in {aside.name}",
            flush=True,
        )

    def _find_again(self) -> None:
        """Makes sure that the file is still there, and that it still ends where the last write ended."""
        held = os.fstat(self._descriptor)
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            there = None
        if there is None or not os.path.samestat(there, held):
            what = "was deleted"
            if there is not None:
                what = f"was replaced (the other one is now {self._path.name}.replaced)"
                self._path.replace(self._path.with_name(self._path.name + ".replaced"))
            content = os.pread(self._descriptor, held.st_size, 0)
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = self._written_anew(content)
            print(f"{self._path} {what} while the run goes on: written again", flush=True)
        if held.st_size != self._end:
            # Another program has cut the file or added to it, so the next line begins at the present end.
            self._line, self._end = {}, held.st_size
            if self._end and os.pread(self._descriptor, 1, self._end - 1) != b"\n":
                self._end += os.pwrite(self._descriptor, b"\n", self._end)
