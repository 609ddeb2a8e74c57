"""The base class of tokenizers: they turn text into ids and back exactly, and are saved to and loaded from a folder.

Every kind has a table from id to bytes, and an encoder. Decoding joins the table's entries. So a
sequence cut in the middle of a character can be decoded too, and the bytes of each id are known.
"""

import abc
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import numpy as np

from lmjax.tokenizers import special
from lmjax.tokenizers.folder import write_folder
from lmjax.tokenizers.text import texts_before, utf8
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.tokenizers.words import ends_sentence, word_bounds

# This text has what normalisers are known to change: edge and double spaces, ligatures, circled digits, composed and
# decomposed accents, carriage returns, wide spaces, NUL, a byte-order mark, SentencePiece's own U+2581.
_PROBE = "  ﬁ① Å e\u0301  I\t\r\n\u3000\x00\ufeff▁x  "


class Tokenizer(abc.ABC):
    """Turns text into token ids, and ids into text.

    Attributes:
      kind: the algorithm, one of :data:`lmjax.tokenizers.config.Kind`.
      special_tokens: special token name to id.
      token_bytes: the UTF-8 bytes each id stands for; empty for special ids.
    """

    def __init__(
        self,
        kind: str,
        *,
        token_bytes: Sequence[bytes],
        special_tokens: Mapping[str, int],
        definition: bytes,
        roles: Mapping[str, int] | None = None,
        word_starts: Sequence[bool] | None = None,
        word_ends: Sequence[bool] | None = None,
    ):
        """Stores the table and computes the vocabulary.

        Args:
          kind: the algorithm.
          token_bytes: the bytes of each id, up to the special ids that follow the ids of text.
          special_tokens: from name to id.
          definition: everything that decides the ids of a text, besides the kind and the special tokens.
          roles: from role to id, where the names alone do not show the role.
          word_starts: for each entry of ``token_bytes``, whether it begins a word, where the tokenizer marks this; see
            :func:`word_bounds`.
          word_ends: for each entry of ``token_bytes``, whether it ends a word, where the tokenizer marks this.

        Raises:
          ValueError: the special ids leave a gap after the ids of text.
        """
        self.kind = kind
        following = sorted(token_id for token_id in special_tokens.values() if token_id >= len(token_bytes))
        if following != [*range(len(token_bytes), len(token_bytes) + len(following))]:
            raise ValueError(f"special token ids {following} do not follow the {len(token_bytes)} ids of text")
        self.token_bytes = [*token_bytes, *[b""] * len(following)]
        self.special_tokens = dict(special_tokens)
        roles = {**special.assign_roles(special_tokens), **(roles or {})}
        sentinels = special.ordered_sentinels(special_tokens)
        used = {*roles.values(), *sentinels.values()}
        bounds = word_bounds(token_bytes, starts=word_starts, ends=word_ends)
        word_start_V = word_end_V = None
        if bounds is not None:
            word_start_V, word_end_V = (np.pad(bound_V, (0, len(following))) for bound_V in bounds)
            # A special token never continues the word before it.
            word_start_V[list(special_tokens.values())] = True
        ids_of_roles: dict[str, Any] = {f"{role}_id": token_id for role, token_id in roles.items()}
        self._facts = Vocabulary(
            size=len(self.token_bytes),
            sentinel_ids=tuple(sentinels.values()),
            named_ids={name: i for name, i in special_tokens.items() if i not in used},
            byte_length_V=np.array([len(token) for token in self.token_bytes], np.int32),
            word_start_V=word_start_V,
            word_end_V=word_end_V,
            sentence_end_V=np.array([ends_sentence(token) for token in self.token_bytes], bool),
            fingerprint=_fingerprint(kind, len(self.token_bytes), special_tokens, roles, definition),
            **ids_of_roles,
        )
        self._name_of = {token_id: name for name, token_id in special_tokens.items()}
        self._between_documents = {roles[role] for role in ("bos", "eos", "cls", "sep", "pad") if role in roles}

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The facts about the ids: size, special ids, bytes per token, word starts."""
        return dataclasses.replace(self._facts, exact_bytes=self.lossless)

    @abc.abstractmethod
    def _encode(self, text: str) -> Sequence[int] | np.ndarray:
        """Returns the ids of ``text``. They may include a special id, which :meth:`encode` then replaces."""

    def _encode_later(self, before: str, text: str) -> Sequence[int] | np.ndarray:
        """Returns the ids of a text that follows the text ``before``, as :meth:`_encode` does.

        A tokenizer overrides this if it encodes a text by itself as the beginning of a document.
        """
        del before
        return self._encode(text)

    @abc.abstractmethod
    def files(self) -> dict[str, bytes]:
        """Returns the files that :meth:`save` writes beside the metadata, from file name to content."""

    def encode(self, text: str, *, after: str | None = None) -> np.ndarray:
        """Returns the ids of ``text``, int32 [N]. They include no special id except unk, whatever the text spells.

        Args:
          text: the text to encode.
          after: the text before it (its last characters are enough), for a text that does not begin a document. Many
            tokenizers put a space before a document, which they must not put before its later parts. ``""`` is for a
            text that follows only a special token.

        Raises:
          ValueError: ``text`` is not well-formed Unicode.
        """
        utf8(text)
        ids = np.asarray(self._encode(text) if after is None else self._encode_later(after, text), np.int32)
        if self._spelled and np.isin(ids, list(self._spelled)).any():
            pieces = [self._spelled.get(token_id, [token_id]) for token_id in ids.tolist()]
            ids = np.array([token_id for piece in pieces for token_id in piece], np.int32)
        return ids

    def encode_batch(
        self,
        texts: Sequence[str],
        *,
        after: Sequence[str | None] | None = None,
        num_threads: int | None = None,
    ) -> list[np.ndarray]:
        """Returns :meth:`encode` of each text, in order, on ``num_threads`` threads (default: one for each core)."""
        num_threads = num_threads or os.cpu_count() or 1
        befores = after or [None] * len(texts)
        if num_threads == 1 or len(texts) < 2:
            return [self.encode(text, after=before) for text, before in zip(texts, befores, strict=True)]
        with ThreadPoolExecutor(num_threads) as pool:
            return list(pool.map(lambda text, before: self.encode(text, after=before), texts, befores))

    def encode_parts(self, parts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each part of one text, such that together they decode to the text."""
        return self.encode_batch(parts, after=texts_before(parts), num_threads=1)

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = True) -> bytes:
        """Returns the bytes that ``ids`` stand for; special tokens are left out, or written as their names.

        A tokenizer may put a space around a document; this is removed around each document in ``ids``. A document
        begins at the front and after a special token such as eos, but not after others, such as a mask.

        Raises:
          ValueError: an id is outside the vocabulary.
        """
        numbers = [int(token_id) for token_id in ids]
        if outside := [number for number in numbers if not 0 <= number < self._facts.size]:
            raise ValueError(f"token id {outside[0]} is not in the tokenizer's vocabulary of {self._facts.size}")
        runs = [(special, [*run]) for special, run in groupby(numbers, self._name_of.__contains__)]
        parts: list[bytes] = []
        for number, (is_special, run) in enumerate(runs):
            if not is_special:
                begins = number == 0 or runs[number - 1][1][-1] in self._between_documents
                ends = number + 1 == len(runs) or runs[number + 1][1][0] in self._between_documents
                parts.append(self._text_bytes(run, begins=begins, ends=ends))
            elif not skip_special:
                parts += [self._name_of[token_id].encode() for token_id in run]
        return b"".join(parts)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Returns the text of ``ids``; bytes that are not (yet) a whole character become U+FFFD."""
        return self.decode_bytes(ids, skip_special=skip_special).decode("utf-8", errors="replace")

    def decode_after(self, before: Sequence[int], ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Returns the text that ``ids`` add to that of ``before``; a continuation keeps the space it begins with."""
        shown = self.decode_bytes(before, skip_special=skip_special)
        whole = self.decode_bytes([*before, *ids], skip_special=skip_special)
        return whole[len(shown) :].decode("utf-8", errors="replace")

    def _text_bytes(self, ids: Sequence[int], *, begins: bool, ends: bool) -> bytes:
        """Returns the bytes of ids of text; ``begins`` and ``ends`` say whether they begin and end a document."""
        del begins, ends
        return b"".join([self.token_bytes[token_id] for token_id in ids])

    @property
    def fingerprint(self) -> str:
        """Sha256, in hex, of everything that decides ids."""
        return self.vocabulary.fingerprint

    @functools.cached_property
    def lossless(self) -> bool:
        """Whether decoding gives back every text, and ``byte_length_V`` adds up to its bytes.

        It is always true for a tokenizer trained here. It is tested on one text, which has what normalisers change.
        """
        ids = self.encode(_PROBE)
        same = self.decode_bytes(ids) == _PROBE.encode()
        return same and int(self._facts.byte_length_V[ids].sum()) == len(_PROBE.encode())

    @functools.cached_property
    def _drops_spaces(self) -> bool:
        """Whether a space at the end of a text is forgotten."""
        return self._forgotten_end("a ") == " "

    def _forgotten_end(self, text: str) -> str:
        """Returns the whitespace at the end of ``text`` that the tokenizer drops."""
        end = text[len(text.rstrip()) :]
        return end if end and [*self._encode(f"a{end}")] == [*self._encode("a")] else ""

    @functools.cached_property
    def _spelled(self) -> dict[int, list[int]]:
        """For each special id that the encoder can return for text, the ids to put in its place."""
        reached = {i for name, i in self.special_tokens.items() if i in self._encode(name)}
        reached.discard(self._facts.unk_id)
        return {i: [j for j in self._spell(self._name_of[i]) if j not in reached] for i in reached}

    def _spell(self, name: str) -> list[int]:
        return [int(token_id) for character in name for token_id in self._encode_later("", character)]

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the tokenizer to ``folder``, metadata last.

        Raises:
          ValueError: the folder holds another tokenizer.
        """
        write_folder(
            pathlib.Path(folder),
            {"kind": self.kind, "special_tokens": self.special_tokens, "fingerprint": self.fingerprint},
            self.files(),
        )


def _fingerprint(
    kind: str, size: int, special_tokens: Mapping[str, int], roles: Mapping[str, int], definition: bytes
) -> str:
    facts = [kind, size, sorted(special_tokens.items()), sorted(roles.items())]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(definition)
    return digest.hexdigest()
