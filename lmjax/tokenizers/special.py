"""Special tokens: which name has which role, and where their ids lie.

Encoded text never contains a special token. In every vocabulary made here the ids of text come
first and the special ids after them, so adding a special token changes no other id.
"""

import re
from collections.abc import Container, Iterable, Mapping

ROLES: dict[str, tuple[str, ...]] = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "bos": ("<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>"),
    "eos": ("<eos>", "</s>", "<|endoftext|>", "<|end_of_text|>"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
    "cls": ("<cls>", "[CLS]"),
    "sep": ("<sep>", "[SEP]"),
    "unk": ("<unk>", "[UNK]"),
}
"""The names that published tokenizers use for each role; an earlier name is preferred."""

_SENTINEL = re.compile(r"<extra_id_(\d+)>")


def sentinel_names(count: int) -> tuple[str, ...]:
    """Returns ``<extra_id_0>`` to ``<extra_id_{count-1}>``, in the order in which T5 uses them."""
    return tuple(f"<extra_id_{index}>" for index in range(count))


def is_sentinel(name: str) -> bool:
    """Returns whether ``name`` is a T5 sentinel."""
    return _SENTINEL.fullmatch(name) is not None


def is_known_name(name: str) -> bool:
    """Returns whether ``name`` is a sentinel, or a name that always has a role."""
    return is_sentinel(name) or role_of(name) is not None


def role_of(name: str) -> str | None:
    """Returns the role of a token of this name, or ``None``."""
    return next((role for role, names in ROLES.items() if name in names), None)


def names_by_role(special_names: Container[str]) -> dict[str, str]:
    """Returns a mapping from role to name, for the roles that some token of ``special_names`` has."""
    found = {role: next((name for name in names if name in special_names), None) for role, names in ROLES.items()}
    return {role: name for role, name in found.items() if name is not None}


def assign_roles(special_tokens: Mapping[str, int]) -> dict[str, int]:
    """Returns a mapping from role to id, for the roles that some token of ``special_tokens`` has."""
    return {role: special_tokens[name] for role, name in names_by_role(special_tokens).items()}


def ordered_sentinels(special_tokens: Mapping[str, int]) -> dict[str, int]:
    """Returns the sentinels among ``special_tokens``, in the order of their numbers."""
    numbered = [(int(match[1]), name) for name in special_tokens if (match := _SENTINEL.fullmatch(name))]
    return {name: special_tokens[name] for _, name in sorted(numbered)}


def append_special_tokens(present: Mapping[str, int], wanted: Iterable[str], *, first_id: int) -> dict[str, int]:
    """Returns ``present`` and each token of ``wanted`` that it lacks; these get ids from ``first_id`` on.

    A token whose role another name already has (``<eos>`` where there is ``</s>``) counts as present.
    """
    tokens = dict(present)
    taken = set(assign_roles(present))
    for name in wanted:
        if name not in tokens and role_of(name) not in taken:
            tokens[name] = first_id
            first_id += 1
    return tokens
