"""Byte-pair encodings given by ranks: tiktoken's files and Mistral's tekken.

Both list the bytes of each token in the order in which they are merged. A tiktoken file (`.tiktoken`, or the
`tokenizer.model` of Llama 3) does not say how text is cut into pieces before; the regular expression is known for the
public files, and ``tokenizer.pattern`` gives it for others. A `tekken.json` says it, and puts its special tokens first.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import tiktoken

from lmjax.tokenizers.base import Tokenizer
from lmjax.tokenizers.special import append_special_tokens

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT4_END = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_GPT4_END}",
    "qwen": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_GPT4_END}",
    "o200k": rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_GPT4_END}",
}
"""How text is cut before the ranks of public files: GPT-2's and GPT-3's, GPT-4's and Llama 3's, Qwen's, GPT-4o's."""
_OF_NAMES = {"cl100k": "cl100k", "o200k": "o200k", "r50k": "gpt2", "p50k": "gpt2", "gpt2": "gpt2", "qwen": "qwen"}
_LLAMA3_RANKS = 128_000

_FILE, _FACTS = "tokenizer.tiktoken", "ranks.json"


class RankTokenizer(Tokenizer):
    """A byte-pair encoding given by its tokens in the order of their ranks; run by `tiktoken`."""

    def __init__(self, tokens: Sequence[bytes], special_tokens: Mapping[str, int], *, pattern: str, first_id: int = 0):
        """Makes a tokenizer from its table.

        Args:
          tokens: the bytes of each token, by rank.
          special_tokens: from name to id; ids below ``first_id``, or after the last rank.
          pattern: the regular expression that cuts text into pieces.
          first_id: the id of rank 0.

        Raises:
          ValueError: a byte has no token, a token has two ranks, or the pattern is no regular expression.
        """
        known = set(tokens)
        lacking = sum(bytes([byte]) not in known for byte in range(256))
        if lacking:
            raise ValueError(f"{lacking} of the 256 bytes have no rank: fetch the file again")
        if len(known) < len(tokens):
            raise ValueError("a token has two ranks: fetch the file again")
        definition = json.dumps([pattern, first_id, [token.hex() for token in tokens]]).encode()
        table = [b""] * first_id + list(tokens)
        super().__init__("tiktoken", token_bytes=table, special_tokens=special_tokens, definition=definition)
        self.pattern, self.first_id = pattern, first_id
        self._tokens = list(tokens)
        try:
            # tiktoken does not get the special tokens, so no text can become one of them.
            self._encoding = tiktoken.Encoding(
                "lmjax",
                pat_str=pattern,
                mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
                special_tokens={},
            )
        except ValueError as error:
            raise ValueError(f"tokenizer.pattern={pattern!r} is no regular expression ({error}): correct it") from None

    @classmethod
    def from_ranks(cls, content: bytes, *, name: str, special_names: Sequence[str], pattern: str | None) -> Self:
        """Returns the tokenizer of a tiktoken file; special tokens get the ids after its last one.

        Args:
          content: the file.
          name: its name, which tells the pattern of public files.
          special_names: names of the special tokens.
          pattern: a name of :data:`PATTERNS`, or a regular expression; ``None`` if the file is a public one.

        Raises:
          ValueError: the file is damaged, or how it cuts text is not known.
        """
        tokens = _read_ranks(content)
        if pattern is None:
            pattern = next((known for part, known in _OF_NAMES.items() if part in name.lower()), None)
            pattern = "cl100k" if pattern is None and len(tokens) == _LLAMA3_RANKS else pattern
        if pattern is None:
            raise ValueError(
                f"tiktoken's ranks, which do not say how text is cut before them, and not known by name: set "
                f"tokenizer.pattern to {', '.join(PATTERNS)} or to the regular expression, or use the tokenizer.json "
                f"of the same model"
            )
        special_tokens = append_special_tokens({}, special_names, first_id=len(tokens))
        return cls(tokens, special_tokens, pattern=PATTERNS.get(pattern, pattern))

    @classmethod
    def from_tekken(cls, content: bytes, *, special_names: Sequence[str]) -> Self:
        """Returns the tokenizer of a ``tekken.json``, with its special tokens; those it lacks follow its last id.

        Raises:
          ValueError: the file is damaged.
        """
        try:
            values = json.loads(content)
            config = values["config"]
            num_special, size = config["default_num_special_tokens"], config["default_vocab_size"]
            pattern, entries = config["pattern"], values["vocab"]
            own = {entry["token_str"]: entry["rank"] for entry in values.get("special_tokens") or ()}
            tokens = [base64.b64decode(entry["token_bytes"], validate=True) for entry in entries[: size - num_special]]
            ranks = [entry["rank"] for entry in entries[: size - num_special]]
            whole = all(type(value) is int for value in (num_special, size, *ranks, *own.values()))
            if not whole or ranks != [*range(len(ranks))] or not isinstance(pattern, str):
                raise ValueError("its ranks do not count from 0")
            if len(tokens) != size - num_special or not all(0 <= rank < num_special for rank in own.values()):
                raise ValueError(f"it has {len(tokens)} tokens, and says {size} with {num_special} special ones")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"not a whole tekken.json ({error}): fetch it again") from None
        # The first special tokens of the versions before they were listed.
        named = own or {name: i for i, name in enumerate(("<unk>", "<s>", "</s>")) if i < num_special}
        taken = set(named.values())
        named |= {f"<SPECIAL_{number}>": number for number in range(num_special) if number not in taken}
        special_tokens = append_special_tokens(named, special_names, first_id=size)
        return cls(tokens, special_tokens, pattern=pattern, first_id=num_special)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], special_tokens: Mapping[str, int]) -> Self:
        """Returns the tokenizer whose :meth:`files` these are.

        Raises:
          ValueError: the files are not those of such a tokenizer.
        """
        try:
            facts: Any = json.loads(files[_FACTS])
            pattern, first_id = facts["pattern"], facts["first_id"]
            tokens = _read_ranks(files[_FILE])
            if not isinstance(pattern, str) or type(first_id) is not int or first_id < 0:
                raise ValueError(f"pattern={pattern!r}, first_id={first_id!r}")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{_FILE} and {_FACTS} are not a tokenizer written by lmjax ({error!r})") from None
        return cls(tokens, special_tokens, pattern=pattern, first_id=first_id)

    def _encode(self, text: str) -> list[int]:
        return [self.first_id + rank for rank in self._encoding.encode_ordinary(text)]

    def files(self) -> dict[str, bytes]:
        """Returns the ranks as a tiktoken file, and a file with the pattern and the first id."""
        lines = (base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(self._tokens))
        facts = json.dumps({"pattern": self.pattern, "first_id": self.first_id}).encode()
        return {_FILE: b"".join(lines), _FACTS: facts}


def _read_ranks(content: bytes) -> list[bytes]:
    """Returns the tokens of a tiktoken file by rank.

    Raises:
      ValueError: a line is damaged, or a rank is missing.
    """
    tokens: dict[int, bytes] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            tokens[int(rank)] = base64.b64decode(token, validate=True)
        except (ValueError, binascii.Error):
            raise ValueError(f"line {number} is not a token in base 64 and its rank: fetch the file again") from None
    if tokens.keys() != set(range(len(tokens))):
        missing = min(set(range(len(tokens) + 1)) - tokens.keys())
        raise ValueError(f"rank {missing} is missing: fetch the file again")
    return [tokens[rank] for rank in range(len(tokens))]
