"""A tokenizer: text to ids and back, exactly, and a folder it can be saved to and loaded from.

Every kind is a table from id to bytes plus an encoder. Decoding joins the table's entries, so a
sequence cut in the middle of a character decodes too, and the bytes each id stands for are known.
"""

import abc
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import numpy as np

from lmjax.tokenizers import special
from lmjax.tokenizers.folder import METADATA, read_folder, write_folder
from lmjax.tokenizers.vocabulary import Vocabulary

# What normalisers are known to change: edge and double spaces, ligatures, circled digits, composed and
# decomposed accents, carriage returns, wide spaces, NUL, a byte-order mark, SentencePiece's own U+2581.
_PROBE = "  ﬁ① Å e\u0301  I\t\r\n\u3000\x00\ufeff▁x  "


class Tokenizer(abc.ABC):
    """Text to token ids and back.

    Attributes:
      kind: the algorithm, one of :data:`lmjax.tokenizers.config.Kind`.
      vocabulary: sizes, special ids, bytes per token, word starts.
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
    ):
        """Fills the vocabulary.

        Args:
          kind: the algorithm.
          token_bytes: the bytes of each id up to the special ids that follow those of text.
          special_tokens: name to id.
          definition: what, besides the kind and the special tokens, decides the ids of a text.
          roles: role to id, where the names alone do not tell.
          word_starts: as ``token_bytes``; default: a token begins a word iff its text begins with whitespace.

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
        word_start_V = np.ones(len(self.token_bytes), bool)
        word_start_V[: len(token_bytes)] = word_starts or [_begins_with_space(token) for token in token_bytes]
        # A special token is never glued to the word before it.
        word_start_V[list(special_tokens.values())] = True
        sentence_end_V = np.array([_ends_sentence(token) for token in self.token_bytes], bool)
        self.vocabulary = Vocabulary(
            size=len(self.token_bytes),
            sentinel_ids=tuple(sentinels.values()),
            named_ids={name: i for name, i in special_tokens.items() if i not in used},
            byte_length_V=np.array([len(token) for token in self.token_bytes], np.int32),
            word_start_V=word_start_V,
            sentence_end_V=sentence_end_V,
            fingerprint=_fingerprint(kind, len(self.token_bytes), special_tokens, roles, definition),
            **{f"{role}_id": token_id for role, token_id in roles.items()},
        )
        self._name_of = {token_id: name for name, token_id in special_tokens.items()}

    @abc.abstractmethod
    def _encode(self, text: str) -> Sequence[int] | np.ndarray:
        """The ids of ``text``; may hold a special id, which :meth:`encode` then replaces."""

    @abc.abstractmethod
    def files(self) -> dict[str, bytes]:
        """What :meth:`save` writes beside the metadata: file name to content."""

    def encode(self, text: str) -> np.ndarray:
        """The ids of ``text``, int32 [N]; never a special id, whatever the text spells (but unk).

        Raises:
          ValueError: ``text`` is not well-formed Unicode.
        """
        utf8(text)
        ids = np.asarray(self._encode(text), np.int32)
        if self._spelled and np.isin(ids, list(self._spelled)).any():
            pieces = [self._spelled.get(token_id, [token_id]) for token_id in ids.tolist()]
            ids = np.array([token_id for piece in pieces for token_id in piece], np.int32)
        return ids

    def encode_batch(self, texts: Sequence[str], *, num_threads: int | None = None) -> list[np.ndarray]:
        """:meth:`encode` of each text, in order, on ``num_threads`` threads (default: one a core)."""
        num_threads = num_threads or os.cpu_count() or 1
        if num_threads == 1 or len(texts) < 2:
            return [self.encode(text) for text in texts]
        with ThreadPoolExecutor(num_threads) as pool:
            return list(pool.map(self.encode, texts))

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = True) -> bytes:
        """The bytes ``ids`` stand for; special tokens are left out, or given by name.

        Raises:
          ValueError: an id outside the vocabulary.
        """
        numbers = [int(token_id) for token_id in ids]
        if outside := [number for number in numbers if not 0 <= number < self.vocabulary.size]:
            raise ValueError(f"token id {outside[0]} is not in the tokenizer's vocabulary of {self.vocabulary.size}")
        if skip_special:
            return self._text_bytes([number for number in numbers if number not in self._name_of])
        parts: list[bytes] = []
        for is_special, run in groupby(numbers, self._name_of.__contains__):
            if is_special:
                parts += [self._name_of[number].encode() for number in run]
            else:
                parts.append(self._text_bytes([*run]))
        return b"".join(parts)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of ``ids``; bytes that are not (yet) a whole character become U+FFFD."""
        return self.decode_bytes(ids, skip_special=skip_special).decode("utf-8", errors="replace")

    def _text_bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join([self.token_bytes[token_id] for token_id in ids])

    @property
    def fingerprint(self) -> str:
        """Hex sha256 over everything that decides ids."""
        return self.vocabulary.fingerprint

    @functools.cached_property
    def lossless(self) -> bool:
        """Whether decoding gives back the text, and ``byte_length_V`` adds up to its bytes.

        Always so for a tokenizer trained here; judged by a text of what normalisers change.
        """
        ids = self.encode(_PROBE)
        same = self.decode_bytes(ids) == _PROBE.encode()
        return same and int(self.vocabulary.byte_length_V[ids].sum()) == len(_PROBE.encode())

    @functools.cached_property
    def _spelled(self) -> dict[int, list[int]]:
        """For each special id that text can reach in the encoder: the ids to put in its place."""
        reached = {i for name, i in self.special_tokens.items() if i in self._encode(name)}
        reached.discard(self.vocabulary.unk_id)
        return {i: [j for j in self._spell(self._name_of[i]) if j not in reached] for i in reached}

    def _spell(self, name: str) -> list[int]:
        return [int(token_id) for character in name for token_id in self._encode(character)]

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


def load_tokenizer(folder: str | os.PathLike) -> Tokenizer:
    """The tokenizer :meth:`Tokenizer.save` wrote to ``folder``.

    Raises:
      ValueError: nothing there, a file changed since it was written, or a kind not known.
    """
    folder = pathlib.Path(folder)
    metadata, files = read_folder(folder)
    kind, special_tokens = metadata["kind"], metadata["special_tokens"]
    tokenizer: Tokenizer
    # Imported here so that a tokenizer costs only its own library.
    if kind == "bytes":
        from lmjax.tokenizers.byte import ByteTokenizer

        tokenizer = ByteTokenizer(special_tokens)
    elif kind == "bpe":
        from lmjax.tokenizers.bpe import BytePairTokenizer

        tokenizer = BytePairTokenizer.from_files(files, special_tokens)
    elif kind in ("sentencepiece_bpe", "sentencepiece_unigram"):
        from lmjax.tokenizers.sentence_piece import SentencePieceTokenizer

        tokenizer = SentencePieceTokenizer.from_files(files, special_tokens)
    elif kind == "huggingface":
        from lmjax.tokenizers.huggingface import HuggingFaceTokenizer

        tokenizer = HuggingFaceTokenizer.from_files(files, special_tokens)
    else:
        raise ValueError(f"{folder / METADATA}: kind {kind!r} is not known to this version of lmjax")
    if tokenizer.fingerprint != metadata["fingerprint"]:
        raise ValueError(
            f"{folder / METADATA}: its fingerprint {metadata['fingerprint'][:12]} is not the files' "
            f"{tokenizer.fingerprint[:12]}: the folder was edited; restore it, or train the tokenizer again"
        )
    return tokenizer


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of ``text``.

    Raises:
      ValueError: ``text`` holds a lone surrogate.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text has a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}: "
            f"read it with errors='replace'"
        ) from None


def _begins_with_space(token: bytes) -> bool:
    return token.decode("utf-8", errors="replace")[:1].isspace()


def _ends_sentence(token: bytes) -> bool:
    text = token.decode("utf-8", errors="ignore").rstrip().rstrip("\"')]}»”’").rstrip()
    return text.endswith((".", "!", "?", "…", "。", "！", "？"))


def _fingerprint(
    kind: str, size: int, special_tokens: Mapping[str, int], roles: Mapping[str, int], definition: bytes
) -> str:
    facts = [kind, size, sorted(special_tokens.items()), sorted(roles.items())]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(definition)
    return digest.hexdigest()
