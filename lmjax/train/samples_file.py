"""The file ``samples.jsonl``: the texts that evaluations wrote, a JSON object for each.

A line is ``{"step": 100, "evaluation": "samples", "prompt": "def ", "text": "main():"}``.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from lmjax.atomic_files import write_file

SAMPLES_FILE = "samples.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """A text that the model wrote.

    Attributes:
      prompt: what it follows, or what it is about.
      text: the text.
    """

    prompt: str
    text: str


@dataclasses.dataclass(frozen=True)
class Sample:
    """A text that was written, and when.

    Attributes:
      step: the number of updates of the parameters that wrote it.
      evaluation: the name of the evaluation.
      prompt: what it follows.
      text: what was written.
    """

    step: int
    evaluation: str
    prompt: str
    text: str


def read_samples(folder: pathlib.Path) -> list[Sample]:
    """Returns the texts of a run folder, in order; lines that are no such text are passed over.

    Raises:
      OSError: the file cannot be read.
    """
    path = folder / SAMPLES_FILE
    if not path.exists():
        return []
    return [sample for line in path.read_bytes().split(b"\n") if (sample := _parsed(line)) is not None]


def drop_samples_from(folder: pathlib.Path, step: int) -> None:
    """Drops the texts of ``step`` and later, which a run that goes on from an earlier step writes again."""
    samples = read_samples(folder)
    kept = [sample for sample in samples if sample.step < step]
    if len(kept) < len(samples):
        write_file(folder / SAMPLES_FILE, "".join(_line(sample) for sample in kept))


def append_samples(folder: pathlib.Path, step: int, evaluation: str, texts: Sequence[Written]) -> None:
    """Adds texts at the end of the file."""
    if texts:
        samples = [Sample(step, evaluation, one.prompt, one.text) for one in texts]
        with open(folder / SAMPLES_FILE, "ab") as file:
            # A kill may have left half a line.
            begin = b"\n" if file.tell() and not _ends_a_line(folder / SAMPLES_FILE) else b""
            file.write(begin + "".join(map(_line, samples)).encode())


def _ends_a_line(path: pathlib.Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _line(sample: Sample) -> str:
    return json.dumps(dataclasses.asdict(sample), ensure_ascii=True) + "\n"


def _parsed(line: bytes) -> Sample | None:
    try:
        values: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    kinds = {"step": int, "evaluation": str, "prompt": str, "text": str}
    if not isinstance(values, dict) or not all(isinstance(values.get(name), kind) for name, kind in kinds.items()):
        return None
    return Sample(**{name: values[name] for name in kinds})
