"""Writes pairs of a good and a bad continuation as JSON lines, made from the standard library: nothing to download.

    python configs/data/preferences.py data/preferences.jsonl

The prompt is the head of a function and its first lines, the chosen continuation what comes next in the file,
and the rejected one the same lines with the words of each in random order. About 6,000 pairs, in seconds.
"""

import ast
import json
import pathlib
import random
import sys
from collections.abc import Iterator

from lmjax.data.config import DataConfig
from lmjax.data.prepare.sources import find_files

PROMPT_LINES = 4
CONTINUED_LINES = 5


def main(path: pathlib.Path) -> None:
    """Writes the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for file_name in find_files(DataConfig(path="stdlib")):
            for lines in functions(pathlib.Path(file_name.path).read_text(encoding="utf-8", errors="replace")):
                record = preference(lines, random.Random(f"{file_name.name} {lines[0]}"))
                if record is not None:
                    file.write(json.dumps(record) + "\n")
                    count += 1
    print(f"{count} pairs in {path}")


def functions(source: str) -> Iterator[list[str]]:
    """The lines of each function."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    lines = source.splitlines(keepends=True)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield lines[node.lineno - 1 : node.end_lineno]


def preference(lines: list[str], rng: random.Random) -> dict[str, str] | None:
    """The record of a function that is long enough, and whose rejected continuation is another than the chosen one."""
    continued = lines[PROMPT_LINES : PROMPT_LINES + CONTINUED_LINES]
    rejected = "".join(shuffled(line, rng) for line in continued)
    chosen = "".join(continued)
    if len(continued) < CONTINUED_LINES or rejected == chosen:
        return None
    return {"prompt": "".join(lines[:PROMPT_LINES]), "chosen": chosen, "rejected": rejected}


def shuffled(line: str, rng: random.Random) -> str:
    """The line's words in random order, its indent and end as they were."""
    words = line.split()
    rng.shuffle(words)
    indent = line[: len(line) - len(line.lstrip())] if words else ""
    return indent + " ".join(words) + line[len(line.rstrip("\r\n")) :]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python configs/data/preferences.py FILE.jsonl")
    main(pathlib.Path(sys.argv[1]))
