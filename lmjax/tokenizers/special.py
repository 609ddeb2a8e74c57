"""Special tokens: which name plays which role, and where their ids lie.

Special tokens are never spelled by text. In every vocabulary made here the ids of text come
first and the special ids after them, so that adding one moves no other id.
"""

import re
from collections.abc import Iterable, Mapping

ROLES: dict[str, tuple[str, ...]] = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "bos": ("<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>"),
    "eos": ("<eos>", "</s>", "<|endoftext|>", "<|end_of_text|>"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
    "cls": ("<cls>", "[CLS]"),
    "sep": ("<sep>", "[SEP]"),
    "unk": ("<unk>", "[UNK]"),
}
"""The names by which published tokenizers call each role; an earlier name is preferred."""

_SENTINEL = re.compile(r"<extra_id_(\d+)>")


def sentinel_names(count: int) -> tuple[str, ...]:
    """``<extra_id_0>`` to ``<extra_id_{count-1}>``, in the order T5 uses them."""
    return tuple(f"<extra_id_{index}>" for index in range(count))


def is_sentinel(name: str) -> bool:
    """Whether ``name`` is a T5 sentinel."""
    return _SENTINEL.fullmatch(name) is not None


def is_known_name(name: str) -> bool:
    """Whether ``name`` is a sentinel or plays a role wherever it appears."""
    return is_sentinel(name) or role_of(name) is not None


def role_of(name: str) -> str | None:
    """The role a token of this name plays, or ``None``."""
    return next((role for role, names in ROLES.items() if name in names), None)


def assign_roles(special_tokens: Mapping[str, int]) -> dict[str, int]:
    """Role to id, for the roles that some token of ``special_tokens`` plays."""
    return {
        role: next(special_tokens[name] for name in names if name in special_tokens)
        for role, names in ROLES.items()
        if any(name in special_tokens for name in names)
    }


def ordered_sentinels(special_tokens: Mapping[str, int]) -> dict[str, int]:
    """The sentinels among ``special_tokens`` in the order of their numbers."""
    numbered = [(int(match[1]), name) for name in special_tokens if (match := _SENTINEL.fullmatch(name))]
    return {name: special_tokens[name] for _, name in sorted(numbered)}


def append_special_tokens(present: Mapping[str, int], wanted: Iterable[str], *, first_id: int) -> dict[str, int]:
    """``present`` and, with ids from ``first_id`` on, each of ``wanted`` it does not have already.

    A token whose role is taken under another name (``<eos>`` where there is ``</s>``) counts as had.
    """
    tokens = dict(present)
    taken = set(assign_roles(present))
    for name in wanted:
        if name not in tokens and role_of(name) not in taken:
            tokens[name] = first_id
            first_id += 1
    return tokens
