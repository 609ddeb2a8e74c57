"""From the fields of a record to a document; every value is checked."""

import contextlib
import json
import math
from collections.abc import Sequence
from typing import Any

from lmjax.data.config import DataConfig
from lmjax.data.prepare.record import REPLACEMENT, Document
from lmjax.data.template import template_fields, template_parts
from lmjax.tokenizers.chat import ASSISTANT, Message

MAX_WEIGHT = 65504.0
"""The largest loss weight: weights are stored in half precision."""
_MISSING = object()


def read_fields(config: DataConfig) -> tuple[str, ...]:
    """Returns the fields that make a document, the first of which every record has."""
    texts = config.members or (
        template_fields(config.record_template) if config.record_template else (config.text_field,)
    )
    return tuple(dict.fromkeys((*texts, *filter(None, (config.prompt_field, config.weight_field, config.id_field)))))


def value_at(record: Any, path: str) -> Any:
    """Returns the field of this name or, if there is none, the nested field: ``message.text``, ``messages.0.text``.

    Raises:
      KeyError: there is no such field.
    """
    if isinstance(record, dict) and path in record:
        return record[path]
    head, dot, rest = path.partition(".")
    if isinstance(record, dict):
        value = record.get(head, _MISSING)
    else:
        inside = isinstance(record, list) and head.isdecimal() and int(head) < len(record)
        value = record[int(head)] if inside else _MISSING
    if value is _MISSING or (not dot and isinstance(record, dict)):
        raise KeyError(path)
    return value_at(value, rest) if dot else value


def kept_values(record: dict, fields: Sequence[str]) -> dict[str, Any]:
    """Returns those of the fields that a record has."""
    found = {}
    for field in fields:
        with contextlib.suppress(KeyError):
            found[field] = value_at(record, field)
    return found


def document_of(
    config: DataConfig, record: dict, name: str, *, undecodable: int = 0, kept_fields: Sequence[str] = ()
) -> Document:
    """Returns the document that a record holds.

    Args:
      config: says which fields make the document.
      record: the fields.
      name: the file.
      undecodable: bytes of the record that were not UTF-8 and have been replaced.
      kept_fields: further fields to keep beside the text, where the record has them.

    Raises:
      ValueError: a field is missing, or its value is not what it should be.
    """
    prompt = []
    if config.prompt_field is not None:
        prompt.append((_text_of(record, config.prompt_field, "prompt_field"), 0.0))
    parts = []
    messages = _messages(record, config.messages_field) if config.messages_field is not None else ()
    parts += [(message.content, float(message.role == ASSISTANT)) for message in messages]
    for field in config.members:
        parts += [*prompt, (_member_of(record, field), 1.0)]
    parts = parts or [*prompt, *_weighted_parts(config, record)]
    clean_parts = []
    for text, weight in parts:
        if "\0" in text:
            raise ValueError(
                f"character {text.index(chr(0))} of a text is NUL, which no text has: correct or remove it"
            )
        clean, replaced = _without_surrogates(text, config)
        clean_parts.append((clean, weight))
        undecodable += replaced
    messages = tuple(message._replace(content=text) for message, (text, _) in zip(messages, clean_parts, strict=False))
    return Document(
        name=name,
        parts=tuple(clean_parts),
        undecodable_bytes=undecodable,
        messages=messages,
        id="" if config.id_field is None else _id_of(record, config.id_field),
        kept=kept_values(record, kept_fields),
    )


def _id_of(record: dict, field: str) -> str:
    value = _field(record, field, "id_field")
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"field {field!r} is {_short(value)}, not an id: correct it, or set data.id_field")
    return str(value)


def _messages(record: dict, field: str) -> tuple[Message, ...]:
    """Returns the messages of a conversation, each of which has a role and a text."""
    value = _field(record, field, "messages_field")
    if not isinstance(value, list) or not value:
        raise ValueError(f"field {field!r} is {_short(value)}, not a list of messages: correct or remove the record")
    messages = []
    for number, one in enumerate(value):
        role, content = (one.get("role"), one.get("content")) if isinstance(one, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise ValueError(
                f"message {number} of field {field!r} is {_short(one)}, not an object with the texts 'role' and "
                f"'content': correct or remove the record"
            )
        messages.append(Message(role, content))
    return tuple(messages)


def _field(record: dict, field: str, option: str) -> object:
    try:
        return value_at(record, field)
    except KeyError:
        has = ", ".join(map(repr, list(record)[:8])) or "none"
        raise ValueError(f"no field {field!r} (it has {has}): set data.{option} or correct the record") from None


def _text_of(record: dict, field: str, option: str) -> str:
    value = _field(record, field, option)
    if not isinstance(value, str):
        raise ValueError(f"field {field!r} is {_short(value)}, not text: correct the record, or set data.{option}")
    return value


def _member_of(record: dict, field: str) -> str:
    text = _text_of(record, field, "members")
    if not text.strip():
        raise ValueError(f"field {field!r} is {_short(text)}, and an example needs all its texts: correct or remove it")
    return text


def _filled(template: str, record: dict) -> str:
    """Returns a template with the values of its fields, which are texts or numbers."""
    pieces = []
    for text, field in template_parts(template):
        pieces.append(text)
        if field is not None:
            value = _field(record, field, "template")
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                raise ValueError(f"field {field!r} is {_short(value)}, not text: correct it, or set data.template")
            pieces.append(str(value))
    return "".join(pieces)


def _weighted_parts(config: DataConfig, record: dict) -> list[tuple[str, float]]:
    if (template := config.record_template) is not None:
        return [(_filled(template, record), 1.0)]
    if config.weight_field is None:
        return [(_text_of(record, config.text_field, "text_field"), 1.0)]
    weights = _field(record, config.weight_field, "weight_field")
    if not isinstance(weights, list):
        return [(_text_of(record, config.text_field, "text_field"), _weight(weights, config.weight_field))]
    texts = _field(record, config.text_field, "text_field")
    if not isinstance(texts, list) or len(texts) != len(weights) or not all(isinstance(t, str) for t in texts):
        raise ValueError(
            f"field {config.text_field!r} must be a list of {len(weights)} texts, one for each weight in "
            f"{config.weight_field!r}; it is {_short(texts)}: correct the record"
        )
    return [(text, _weight(weight, config.weight_field)) for text, weight in zip(texts, weights, strict=True)]


def _weight(value: object, field: str) -> float:
    valid = isinstance(value, int | float) and not isinstance(value, bool)
    if not valid or not (math.isfinite(value) and 0 <= value <= MAX_WEIGHT):  # type: ignore[arg-type,operator]
        raise ValueError(f"field {field!r} is {_short(value)}: a loss weight is a number from 0 to {MAX_WEIGHT:.0f}")
    return float(value)  # type: ignore[arg-type]


def _short(value: object) -> str:
    # Tables hold values that JSON does not have, such as dates.
    shown = json.dumps(value, default=str)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."


def _without_surrogates(text: str, config: DataConfig) -> tuple[str, int]:
    r"""Replaces half characters: JSON can contain one (``"\ud800"``), UTF-8 cannot. They count as undecodable."""
    try:
        text.encode()
        return text, 0
    except UnicodeEncodeError as error:
        if config.decode_errors == "strict":
            raise ValueError(
                f"character {error.start} of a text is an unpaired surrogate: correct the record, or set "
                f"data.decode_errors=replace"
            ) from None
    clean = "".join(REPLACEMENT if "\ud800" <= character <= "\udfff" else character for character in text)
    return clean, sum("\ud800" <= character <= "\udfff" for character in text)
