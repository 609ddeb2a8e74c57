"""Bytes as tokens: nothing is trained, and every id below 256 is a byte of the text's UTF-8."""

from collections.abc import Mapping

import numpy as np

from lmjax.tokenizers.base import Tokenizer
from lmjax.tokenizers.text import utf8


class ByteTokenizer(Tokenizer):
    """A tokenizer with one id for each byte, 0 to 255, and special ids from 256 on."""

    def __init__(self, special_tokens: Mapping[str, int]):
        """Makes a byte tokenizer with these special tokens, from name to id."""
        table = [bytes([byte]) for byte in range(256)]
        super().__init__("bytes", token_bytes=table, special_tokens=special_tokens, definition=b"")

    def _encode(self, text: str) -> np.ndarray:
        return np.frombuffer(utf8(text), np.uint8)

    def files(self) -> dict[str, bytes]:
        """Returns no files, because the metadata describes the tokenizer completely."""
        return {}
