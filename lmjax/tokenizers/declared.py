"""Reads the JSON files beside a published tokenizer: the roles of special tokens, and tokens added to its own."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

CONFIG = "tokenizer_config.json"
ROLES_FILE = "special_tokens_map.json"
ADDED = "added_tokens.json"
ROLES = ("bos", "eos", "pad", "mask", "cls", "sep", "unk")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declared:
    """What the files beside a tokenizer declare about its special tokens.

    Attributes:
      role_names: from role (``"eos"``) to the token that has this role.
      added: from token to id, for the tokens that a file adds to the model's own.
      special: names of the special tokens, which encoded text never contains.
      source: the file that adds tokens, for messages.
    """

    role_names: dict[str, str] = dataclasses.field(default_factory=dict)
    added: dict[str, int] = dataclasses.field(default_factory=dict)
    special: frozenset[str] = frozenset()
    source: pathlib.Path | None = None


def write_role_names(role_names: Mapping[str, str]) -> dict[str, bytes]:
    """Returns the file in which our tokenizers keep roles that names alone do not show; no file without such roles."""
    named = {f"{role}_token": name for role, name in role_names.items()}
    return {ROLES_FILE: json.dumps(named).encode()} if named else {}


def read_role_names(files: Mapping[str, bytes], special_tokens: Mapping[str, int]) -> dict[str, str]:
    """Returns the roles that :func:`write_role_names` wrote, from role to the token's name.

    Raises:
      ValueError: the file does not give roles to special tokens.
    """
    if ROLES_FILE not in files:
        return {}
    try:
        named = json.loads(files[ROLES_FILE])
        names = {key.removesuffix("_token"): name for key, name in named.items()}
    except (ValueError, AttributeError, RecursionError):
        names = None
    if names is None or not all(role in ROLES and name in special_tokens for role, name in names.items()):
        raise ValueError(f"{ROLES_FILE} does not give roles to special tokens: restore it")
    return names


def read_declared(folder: pathlib.Path) -> Declared:
    """Returns the roles and added tokens that the files in a folder declare; a later file overrides an earlier one.

    Raises:
      ValueError: a file is not JSON, or a value is not of its type.
    """
    roles: dict[str, str] = {}
    special: set[str] = set()
    added: dict[str, int] = {}
    source = None
    if (folder / ADDED).is_file():
        source = folder / ADDED
        added = {name: _checked_id(source, name, value) for name, value in read_object(source).items()}
    for file in (folder / ROLES_FILE, folder / CONFIG):
        if not file.is_file():
            continue
        values = read_object(file)
        for role in ROLES:
            if (name := _content(values.get(f"{role}_token"))) is not None:
                roles[role] = name
        more = values.get("additional_special_tokens")
        special |= {name for name in map(_content, more if isinstance(more, list) else ()) if name is not None}
        decoder = values.get("added_tokens_decoder")
        for key, token in (decoder if isinstance(decoder, dict) else {}).items():
            name = _content(token)
            if name is None or not (key.isascii() and key.isdigit()):
                raise ValueError(f"{file}: added_tokens_decoder[{key!r}] is not an id with its token: correct the file")
            added[name] = _checked_id(file, name, int(key))
            source = source or file
            if isinstance(token, dict) and token.get("special") is True:
                special.add(name)
    return Declared(role_names=roles, added=added, special=frozenset(special | set(roles.values())), source=source)


def _checked_id(file: pathlib.Path, name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ValueError(f"{file}: the id of {name!r} is {value!r}: correct the file")
    return value


def _content(value: object) -> str | None:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
      ValueError: the file does not hold a JSON object.
    """
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): fetch it again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is a JSON {type(values).__name__}, not an object: fetch it again")
    return values
