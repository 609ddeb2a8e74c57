"""Runs a Hugging Face ``tokenizer.json`` with any algorithm, and finds its special ids by name."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Self

import tokenizers

from lmjax.tokenizers.anchor import anchor_for
from lmjax.tokenizers.base import Tokenizer
from lmjax.tokenizers.declared import read_role_names, write_role_names
from lmjax.tokenizers.panics import is_panic
from lmjax.tokenizers.piece_style import piece_style
from lmjax.tokenizers.special import append_special_tokens

_FILE = "tokenizer.json"
_MOST_IDS_PER_TOKEN, _MOST_GAPS = 4, 100_000
"""The most ids of a definition: so many for each token, and so many more.

Without this bound a single wrong id could fill the memory.
"""


class HuggingFaceTokenizer(Tokenizer):
    """A ``tokenizer.json``, which the library `tokenizers` runs.

    Where its pieces show what text they stand for (byte-level, and SentencePiece-like), decoding uses
    the table. WordPiece, which drops spaces, is decoded by the library. :attr:`lossless` says whether text is kept.
    """

    def __init__(
        self, definition: bytes, special_tokens: Mapping[str, int], *, role_names: Mapping[str, str] | None = None
    ):
        """Makes a tokenizer from the file's content.

        Args:
          definition: the ``tokenizer.json`` file's bytes.
          special_tokens: from name to id, for its own special tokens and any that follow its ids.
          role_names: from role (``"cls"``) to the name of the special token that has it, where the name
            alone does not show the role.

          Raises:
            ValueError: ``definition`` is not a tokenizer definition.
        """
        self._definition = definition
        self.role_names = dict(role_names or {})
        self._tokenizer, fields = _read(definition)
        # Text that spells a special token stays text.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._size = _size(self._tokenizer)
        self._style = piece_style(fields)
        # Added tokens that are also the model's own (Gemma's runs of spaces) are spelled like its pieces.
        own = self._tokenizer.get_vocab(with_added_tokens=False)
        added = {t["id"]: t["content"] for t in fields.get("added_tokens", ()) if t["content"] not in own}
        own_special = {i for i in special_tokens.values() if i < self._size}
        pieces = [self._tokenizer.id_to_token(token_id) or "" for token_id in range(self._size)]
        table = [
            b"" if i in own_special else added[i].encode() if i in added else self._style.spell(piece)
            for i, piece in enumerate(pieces)
        ]
        wordpiece = self._style.kind == "WordPiece"
        ends = [self._style.ends_word(piece) for piece in pieces]
        super().__init__(
            "huggingface",
            token_bytes=table,
            special_tokens=special_tokens,
            definition=json.dumps(fields, sort_keys=True).encode(),
            roles=self._unknown(fields, special_tokens)
            | {role: special_tokens[name] for role, name in self.role_names.items()},
            word_starts=[not piece.startswith(self._style.prefix) for piece in pieces] if wordpiece else None,
            word_ends=ends if self._style.suffix else None,
        )

    @staticmethod
    def _unknown(fields: dict, special_tokens: Mapping[str, int]) -> dict[str, int]:
        name = fields["model"].get("unk_token")
        return {"unk": special_tokens[name]} if isinstance(name, str) and name in special_tokens else {}

    @classmethod
    def from_definition(
        cls, definition: bytes, *, special_names: Sequence[str], role_names: Mapping[str, str] | None = None
    ) -> Self:
        """Returns the tokenizer of an existing ``tokenizer.json``; missing ``special_names`` get ids after its last id.

        Args:
          definition: the file's bytes.
          special_names: special tokens it should have.
          role_names: see :class:`HuggingFaceTokenizer`; a name that is not one of its tokens is passed over.

          Raises:
            ValueError: ``definition`` is not a tokenizer definition.
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
        """Returns the tokenizer whose :meth:`files` these are.

        Raises:
          ValueError: the definition is missing or not readable.
        """
        if _FILE not in files:
            raise ValueError(f"the tokenizer's metadata lists no {_FILE}: restore it, or save the tokenizer again")
        return cls(files[_FILE], special_tokens, role_names=read_role_names(files, special_tokens))

    def files(self) -> dict[str, bytes]:
        """Returns the definition, and a file with the roles that it does not show."""
        return {_FILE: self._definition, **write_role_names(self.role_names)}

    def _encode(self, text: str) -> list[int]:
        try:
            return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except BaseException as error:
            if not (isinstance(error, Exception) or is_panic(error)):
                raise
            raise ValueError(f"the tokenizer cannot encode {text[:40]!r} ({error}): check its tokenizer.json") from None

    def _encode_later(self, before: str, text: str) -> list[int]:
        if self._style.suffix or not (self._adds_space or self._drops_spaces):
            return self._encode(text)
        forgotten = self._forgotten_end(before)
        text = forgotten + text
        # Only whitespace that the tokenizer drops comes before, so the document begins here.
        if before and forgotten == before:
            return self._encode(text)
        if self._style.kind == "WordPiece" and not self._glued(before, text):
            text = f" {text}"
        anchor = "" if self._style.byte_level else anchor_for(text)
        later = self._later(anchor)
        ids = later.encode(anchor + text)
        return self._encode(text) if ids is None else ids

    def _glued(self, before: str, text: str) -> bool:
        """Returns whether the last character before a text and the text's first character may belong to one word."""
        library = self._tokenizer
        pair = before[-1:] + text[:1]
        if library.pre_tokenizer is None or len(pair) < 2:
            return bool(before)
        normal = library.normalizer.normalize_str(pair) if library.normalizer is not None else pair
        return len(library.pre_tokenizer.pre_tokenize_str(normal)) == 1

    @functools.cache  # noqa: B019
    def _later(self, anchor: str) -> "_LaterParts":
        return _LaterParts(self._tokenizer, json.loads(self._definition), anchor)

    @functools.cached_property
    def _adds_space(self) -> bool:
        first = self._encode("a")[:1]
        return bool(first) and self.token_bytes[first[0]].startswith(b" ")

    def _text_bytes(self, ids: Sequence[int], *, begins: bool, ends: bool) -> bytes:
        if self._style.kind == "WordPiece":
            return self._word_pieces(ids, begins=begins)
        text = super()._text_bytes(ids, begins=begins, ends=ends)
        if self._style.suffix and ends:
            text = text.removesuffix(b" ")
        return text.removeprefix(b" ") if begins and self._adds_space else text

    def _word_pieces(self, ids: Sequence[int], *, begins: bool) -> bytes:
        text = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        if begins:
            return text.encode()
        prefix = self._style.prefix
        return (text.removeprefix(prefix) if text.startswith(prefix) else f" {text}").encode()


class _LaterParts:
    """A changed definition that encodes a text as a later part of a document, with no space put before it."""

    def __init__(self, library: tokenizers.Tokenizer, fields: dict, anchor: str):
        """Changes the definition: adds a token for ``anchor``; without one, puts no space before byte-level text."""
        if anchor:
            vocab = fields["model"]["vocab"]
            if isinstance(vocab, dict):
                vocab[anchor] = _size(library)
            else:
                vocab.append([anchor, 0.0])
        else:
            _without_prefix_space(fields)
        self._library = tokenizers.Tokenizer.from_str(json.dumps(fields))
        self._library.encode_special_tokens = True
        self._library.no_truncation()
        self._library.no_padding()
        self._anchor_id = self._library.token_to_id(anchor) if anchor else None
        # The token of the anchor shifts the ids of tokens added after it.
        own = library.get_vocab(with_added_tokens=True)
        ids = self._library.get_vocab(with_added_tokens=True)
        self._moved = {new: own[token] for token, new in ids.items() if token in own and own[token] != new}

    def encode(self, text: str) -> list[int] | None:
        """Returns the ids after the anchor; None where the tokenizer drops the anchor."""
        ids = self._library.encode_batch_fast([text], add_special_tokens=False)[0].ids
        if self._anchor_id is not None:
            if self._anchor_id not in ids:
                return None
            ids = ids[ids.index(self._anchor_id) + 1 :]
        return [self._moved.get(token_id, token_id) for token_id in ids]


def _without_prefix_space(node: object) -> None:
    if isinstance(node, dict):
        if node.get("type") == "ByteLevel" and node.get("add_prefix_space"):
            node["add_prefix_space"] = False
        for value in node.values():
            _without_prefix_space(value)
    elif isinstance(node, list):
        for value in node:
            _without_prefix_space(value)


def _read(definition: bytes) -> tuple[tokenizers.Tokenizer, dict]:
    try:
        text = definition.decode()
        fields = json.loads(text)
        _check_patterns(fields)
        _check_merges(fields["model"])
        library = tokenizers.Tokenizer.from_str(text)
        # The library may read a definition and then panic at the first text.
        library.encode("a b")
    # The library raises a bare Exception for a definition it cannot read.
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise ValueError(f"not a Hugging Face tokenizer.json ({error}): check tokenizer.path") from None
    num_tokens, size = library.get_vocab_size(with_added_tokens=True), _size(library)
    if size > _MOST_IDS_PER_TOKEN * num_tokens + _MOST_GAPS:
        raise ValueError(f"its {num_tokens} tokens have ids up to {size - 1}: correct the id that is out of place")
    return library, fields


def _check_patterns(node: object) -> None:
    """Raises the library's error for a regular expression that it cannot read, before it panics at it."""
    if isinstance(node, dict):
        pattern = node.get("Regex")
        if isinstance(pattern, str):
            tokenizers.Regex(pattern)
        for value in node.values():
            _check_patterns(value)
    elif isinstance(node, list):
        for value in node:
            if isinstance(value, dict | list):
                _check_patterns(value)


def _check_merges(model: dict) -> None:
    """Refuses merges whose second piece lacks the prefix of pieces within a word: the library aborts at them."""
    prefix = model.get("continuing_subword_prefix")
    if prefix and isinstance(prefix, str):
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges") or ()]
        if not all(pair[-1].startswith(prefix) for pair in pairs):
            raise ValueError(f"merges without the continuing_subword_prefix {prefix!r}")


def _size(tokenizer: tokenizers.Tokenizer) -> int:
    # Ids may have gaps, so the number of tokens is not the number of ids.
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
