r"""Byte-level byte-pair encoding, trained by Hugging Face `tokenizers` and run by `tiktoken`.

The algorithm is that of Sennrich et al. 2016, section 3.2, over bytes as in GPT-2 (Radford et al. 2019,
section 2.2). Ids 0 to 255 are the bytes; each further id is a merge, in the order learned, so an id is its rank.

Text is first cut into pieces that no token crosses (:data:`PATTERN`), in a similar way to GPT-4: the ending of an
English contraction; letters with the space or sign before them; one to three digits; signs; and
whitespace, where a line's indentation stays together and its last space goes to the word. Two
things differ from GPT-4. Combining marks belong to letters, so that Devanagari and Thai words stay whole. And a run
of whitespace is cut every 128 characters, because the regular expression engine remembers each
character that it may have to give back to the word, and a million spaces would overflow its stack.
"""

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self

import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from lmjax.tokenizers.base import Tokenizer

_WITHOUT_LOOKAHEAD = (
    r"\s{128}",
    r"'(?:[sdmt]|[SDMT]|ll|LL|ve|VE|re|RE)",
    r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
)
# The group changes only the speed: the engine runs it without backtracking, which is 1.5 times as fast.
PATTERN = rf"(?:{'|'.join(_WITHOUT_LOOKAHEAD)})|\s+(?!\S)|\s+"

_FILE = "tokenizer.json"


class BytePairTokenizer(Tokenizer):
    """Byte-level BPE. It is saved as a Hugging Face `tokenizer.json`, which other programs can read too."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Mapping[str, int],
        *,
        pattern: str = PATTERN,
    ):
        """Makes a tokenizer from its table.

        Args:
          tokens: the 256 bytes, then the token that each merge makes.
          merges: the merged pairs, in order.
          special_tokens: from name to id.
          pattern: the regular expression that cuts text into pieces.
        """
        definition = json.dumps([pattern, [token.hex() for token in tokens]]).encode()
        super().__init__("bpe", token_bytes=tokens, special_tokens=special_tokens, definition=definition)
        self.merges = list(merges)
        self.pattern = pattern
        ranks = {token: rank for rank, token in enumerate(tokens)}
        # tiktoken does not get the special tokens, so no text can become one of them.
        self._encoding = tiktoken.Encoding(
            "lmjax", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}, explicit_n_vocab=len(tokens)
        )

    @classmethod
    def train(cls, texts: Iterable[str], *, num_text_ids: int, special_names: Sequence[str]) -> Self:
        """Learns ``num_text_ids - 256`` merges from ``texts``.

        Raises:
          ValueError: the texts have too few distinct pairs.
        """
        trained = tokenizers.Tokenizer(models.BPE())
        trained.pre_tokenizer = _pre_tokenizer(PATTERN)
        alphabet = sorted(byte_alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=num_text_ids, initial_alphabet=alphabet, special_tokens=[], show_progress=False
        )
        trained.train_from_iterator(texts, trainer)
        learned = trained.get_vocab_size()
        if learned < num_text_ids:
            raise ValueError(
                f"tokenizer.vocab_size={num_text_ids + len(special_names)}: the training text has pairs for "
                f"{learned + len(special_names)} at most; lower it to that, or train on more text"
            )
        tokens, merges = _read_model(json.loads(trained.to_str()))
        special_tokens = {name: len(tokens) + index for index, name in enumerate(special_names)}
        return cls(tokens, merges, special_tokens)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], special_tokens: Mapping[str, int]) -> Self:
        """Returns the tokenizer whose :meth:`files` these are.

        Raises:
          ValueError: the files are not a byte-level BPE written by this class.
        """
        try:
            definition = json.loads(files[_FILE])
            tokens, merges = _read_model(definition)
            pattern = definition["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{_FILE} is not a byte-level BPE written by lmjax ({error!r})") from None
        return cls(tokens, merges, special_tokens, pattern=pattern)

    def _encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)

    def files(self) -> dict[str, bytes]:
        """Returns one file, the Hugging Face definition."""
        return {_FILE: self.to_huggingface().to_str().encode()}

    def to_huggingface(self) -> tokenizers.Tokenizer:
        """Returns the same tokenizer as a `tokenizers.Tokenizer`, which gives the same ids but is much slower."""
        spell = _speller()
        num_text = 256 + len(self.merges)
        vocabulary = {spell(token): token_id for token_id, token in enumerate(self.token_bytes[:num_text])}
        merges = [(spell(left), spell(right)) for left, right in self.merges]
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        tokenizer.pre_tokenizer = _pre_tokenizer(self.pattern)
        tokenizer.decoder = decoders.ByteLevel()
        names = sorted(self.special_tokens, key=self.special_tokens.__getitem__)
        tokenizer.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in names])
        return tokenizer


@functools.cache
def byte_alphabet() -> dict[str, int]:
    """Returns GPT-2's printable character for each byte, as a dictionary from character to byte.

    The character is the byte itself where Latin-1 prints it, else the next one from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(0x100 + i): byte for i, byte in enumerate(others)},
    }


def unspell(token: str) -> bytes:
    """Returns the bytes of a token that is written in :func:`byte_alphabet`."""
    return bytes(byte_alphabet()[character] for character in token)


def _speller() -> Callable[[bytes], str]:
    stand_in = {byte: character for character, byte in byte_alphabet().items()}
    return lambda token: "".join(stand_in[byte] for byte in token)


def _pre_tokenizer(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _read_model(definition: dict) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """Returns the table (bytes by value, then merges in order) and the merges of a Hugging Face definition."""
    merges = [(unspell(left), unspell(right)) for left, right in definition["model"]["merges"]]
    tokens = [*(bytes([byte]) for byte in range(256)), *(left + right for left, right in merges)]
    if sorted(unspell(token) for token in definition["model"]["vocab"]) != sorted(tokens):
        raise ValueError("its merges do not make its vocabulary, each token once")
    return tokens, merges
