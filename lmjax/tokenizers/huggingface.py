"""A Hugging Face ``tokenizer.json``, whatever its algorithm, with its special ids found by name."""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import tokenizers

from lmjax.tokenizers.base import Tokenizer
from lmjax.tokenizers.bpe import byte_alphabet, unspell
from lmjax.tokenizers.panics import is_panic
from lmjax.tokenizers.special import append_special_tokens

_FILE = "tokenizer.json"
_ROLES_FILE = "special_tokens_map.json"
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class HuggingFaceTokenizer(Tokenizer):
    """A ``tokenizer.json``, run by `tokenizers`.

    Where its pieces say what text they stand for (byte-level, and SentencePiece-like) decoding is
    by table; WordPiece, which forgets spaces, is decoded by the library. :attr:`lossless` tells.
    """

    def __init__(
        self, definition: bytes, special_tokens: Mapping[str, int], *, role_names: Mapping[str, str] | None = None
    ):
        """A tokenizer from the file's content.

        Args:
          definition: the ``tokenizer.json`` file's bytes.
          special_tokens: name to id; its own, and any that follow its ids.
          role_names: role (``"cls"``) to the name of the special token that plays it, where its name
            alone does not tell.

        Raises:
          ValueError: not a tokenizer definition.
        """
        self._definition = definition
        self.role_names = dict(role_names or {})
        self._tokenizer, fields = _read(definition)
        # Text that spells a special token is text.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._size = _size(self._tokenizer)
        self._style = _style(fields)
        added = {token["id"]: token["content"] for token in fields.get("added_tokens", ())}
        own_special = {i for i in special_tokens.values() if i < self._size}
        pieces = [self._tokenizer.id_to_token(token_id) or "" for token_id in range(self._size)]
        table = [
            b"" if i in own_special else added[i].encode() if i in added else self._style(piece)
            for i, piece in enumerate(pieces)
        ]
        wordpiece = self._style is _wordpiece_bytes
        super().__init__(
            "huggingface",
            token_bytes=table,
            special_tokens=special_tokens,
            definition=json.dumps(fields, sort_keys=True).encode(),
            roles={role: special_tokens[name] for role, name in self.role_names.items()},
            word_starts=[not piece.startswith("##") for piece in pieces] if wordpiece else None,
        )

    @classmethod
    def from_definition(
        cls, definition: bytes, *, special_names: Sequence[str], role_names: Mapping[str, str] | None = None
    ) -> Self:
        """An existing ``tokenizer.json``; those of ``special_names`` it lacks follow its last id.

        Args:
          definition: the file's bytes.
          special_names: special tokens it should have.
          role_names: see :class:`HuggingFaceTokenizer`; a name that is no token of its plays no role.

        Raises:
          ValueError: not a tokenizer definition.
        """
        tokenizer, fields = _read(definition)
        present = {t["content"]: t["id"] for t in fields.get("added_tokens", ()) if t["special"]}
        played = {role: (name, tokenizer.token_to_id(name)) for role, name in (role_names or {}).items()}
        there = {role: name for role, (name, token_id) in played.items() if token_id is not None}
        present |= {name: token_id for name, token_id in played.values() if token_id is not None}
        special_tokens = append_special_tokens(present, special_names, first_id=_size(tokenizer))
        return cls(definition, special_tokens, role_names=there)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], special_tokens: Mapping[str, int]) -> Self:
        """The tokenizer whose :meth:`files` these are.

        Raises:
          ValueError: the definition is missing or not readable.
        """
        if _FILE not in files:
            raise ValueError(f"the tokenizer's metadata lists no {_FILE}: restore it, or save the tokenizer again")
        named = json.loads(files[_ROLES_FILE]) if _ROLES_FILE in files else {}
        role_names = {key.removesuffix("_token"): name for key, name in named.items()}
        return cls(files[_FILE], special_tokens, role_names=role_names)

    def files(self) -> dict[str, bytes]:
        """The definition, and the roles it does not tell."""
        named = {f"{role}_token": name for role, name in self.role_names.items()}
        return {_FILE: self._definition, **({_ROLES_FILE: json.dumps(named).encode()} if named else {})}

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    @functools.cached_property
    def _adds_space(self) -> bool:
        first = self._encode("a")[:1]
        return bool(first) and self.token_bytes[first[0]].startswith(b" ")

    def _text_bytes(self, ids: Sequence[int]) -> bytes:
        if self._style is _wordpiece_bytes:
            return self._tokenizer.decode(list(ids), skip_special_tokens=False).encode()
        text = super()._text_bytes(ids)
        return text.removeprefix(b" ") if self._adds_space else text


def _read(definition: bytes) -> tuple[tokenizers.Tokenizer, dict]:
    try:
        text = definition.decode()
        return tokenizers.Tokenizer.from_str(text), json.loads(text)
    # The library raises a bare Exception for a definition it cannot read.
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise ValueError(f"not a Hugging Face tokenizer.json ({error}): check tokenizer.path") from None


def _size(tokenizer: tokenizers.Tokenizer) -> int:
    # Ids may have gaps, so the number of tokens is not the number of ids.
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _style(fields: dict) -> Callable[[str], bytes]:
    """How the pieces of this definition spell their text: piece to bytes."""
    if '"ByteLevel"' in json.dumps([fields.get("pre_tokenizer"), fields.get("decoder")]):
        return _byte_level_bytes
    return _wordpiece_bytes if fields["model"].get("type") == "WordPiece" else _spaced_bytes


def _byte_level_bytes(piece: str) -> bytes:
    return unspell(piece) if all(character in byte_alphabet() for character in piece) else piece.encode()


def _wordpiece_bytes(piece: str) -> bytes:
    return piece.removeprefix("##").encode()


def _spaced_bytes(piece: str) -> bytes:
    match = _BYTE_PIECE.fullmatch(piece)
    return bytes([int(match[1], 16)]) if match else piece.replace("\u2581", " ").encode()
