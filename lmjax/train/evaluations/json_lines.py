"""Files with a text or a JSON value in each line: prompts, pairs, labelled texts, prompts with references."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any


def read_lines(path: pathlib.Path, form: str) -> list[tuple[str, str]]:
    """Returns the lines that are not blank, each after how to call it in messages.

    Args:
      path: the file, in UTF-8.
      form: what a line is to be, for messages, such as "a prompt a line".

    Raises:
      ValueError: the file cannot be read, or has no such line.
    """
    try:
        # Other signs that Python takes for line ends, such as U+2028, may stand within a text.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (at byte {error.start}): convert it") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}: name a file with {form}") from None
    found = [(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise ValueError(f"{path} has no lines: write {form}")
    return found


def parse(line: str, where: str) -> Any:
    """Returns the JSON value of a line.

    Raises:
      ValueError: it is not JSON.
    """
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({error}): correct it") from None


def read_objects(path: pathlib.Path, fields: Sequence[str]) -> list[tuple[str, list[Any]]]:
    """Returns for each line that is not blank how to call it in messages, and the values of the fields.

    Args:
      path: the file.
      fields: the names of fields that each line's object must have.

    Raises:
      ValueError: the file cannot be read, has no lines, or a line is not an object with these fields.
    """
    form = json.dumps(dict.fromkeys(fields, "..."))
    found = []
    for where, line in read_lines(path, f"JSON lines, each as {form}"):
        content = parse(line, where)
        if not isinstance(content, dict) or any(field not in content for field in fields):
            has = f"has {', '.join(map(repr, content)) or 'no fields'}" if isinstance(content, dict) else "is no object"
            raise ValueError(f"{where} {has}: each line must be as {form}")
        found.append((where, [content[field] for field in fields]))
    return found


def read_fields(path: pathlib.Path, fields: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the texts in the fields of each line.

    Args:
      path: the file.
      fields: the names of the fields.

    Raises:
      ValueError: as :func:`read_objects`; or a field is empty or not text.
    """
    rows = []
    for where, values in read_objects(path, fields):
        for field, value in zip(fields, values, strict=True):
            check_text(value, where, field)
        rows.append(tuple(values))
    return rows


def check_text(value: object, where: str, field: str) -> str:
    """Returns a value that is text.

    Raises:
      ValueError: it is not text, is empty or holds half a character.
    """
    if not isinstance(value, str) or not value.strip():
        shown = json.dumps(value)
        raise ValueError(
            f"{where}: {field!r} is {shown if len(shown) <= 40 else shown[:40] + '...'}: must be some text"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: {field!r} has half a character (at {error.start}): correct it") from None
    return value
