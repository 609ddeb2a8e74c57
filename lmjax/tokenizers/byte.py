"""Bytes as tokens: nothing to train, every id below 256 is a byte of the text's UTF-8."""

from collections.abc import Mapping

import numpy as np

from lmjax.tokenizers.base import Tokenizer
from lmjax.tokenizers.text import utf8


class ByteTokenizer(Tokenizer):
    """One id a byte, ids 0 to 255; special ids from 256 on."""

    def __init__(self, special_tokens: Mapping[str, int]):
        """A byte tokenizer with these special tokens, name to id."""
        table = [bytes([byte]) for byte in range(256)]
        super().__init__("bytes", token_bytes=table, special_tokens=special_tokens, definition=b"")

    def _encode(self, text: str) -> np.ndarray:
        return np.frombuffer(utf8(text), np.uint8)

    def files(self) -> dict[str, bytes]:
        """None: the metadata says it all."""
        return {}
