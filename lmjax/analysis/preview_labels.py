"""Labels of tokens and objectives, in a few visible characters."""

import dataclasses
import unicodedata
from typing import Any

from lmjax.objectives import Objective
from lmjax.tokenizers import Tokenizer

_VISIBLE = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "\\r"}


def objective_title(objective: Objective) -> str:
    """Returns the objective's name with the hyperparameters that are not the default: ``MaskedLM(rate=0.4)``."""
    return _describe_value(objective)


def _describe_value(value: Any) -> str:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        items = value if isinstance(value, tuple) else None
        return repr(value) if items is None else f"({', '.join(map(_describe_value, items))})"
    changed = []
    for field in dataclasses.fields(value):
        now = getattr(value, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if now != default:
            changed.append(f"{field.name}={_describe_value(now)}")
    return type(value).__name__ + (f"({', '.join(changed)})" if changed else "")


def token_label(tokenizer: Tokenizer, token_id: int) -> str:
    """Returns a token in visible characters: special ones by name, space ``·``, newline ``↵``, bytes ``\\xc3``."""
    if not 0 <= token_id < tokenizer.vocabulary.size:
        return f"#{token_id}"
    if not (text := tokenizer.token_bytes[token_id]):
        return tokenizer.decode([token_id], skip_special=False) or f"#{token_id}"
    label = "".join(map(_visible, text.decode("utf-8", errors="backslashreplace")))
    return f"◌{label}" if unicodedata.combining(label[0]) else label


def _visible(character: str) -> str:
    if character in _VISIBLE:
        return _VISIBLE[character]
    if unicodedata.category(character)[0] in "CZ":
        return character.encode("unicode_escape").decode()
    return character
