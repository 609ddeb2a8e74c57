"""What text the pieces of a ``tokenizer.json`` stand for."""

import dataclasses
import json
import re

from lmjax.tokenizers.bpe import byte_alphabet, unspell

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclasses.dataclass(frozen=True)
class PieceStyle:
    """How the pieces of a definition spell their text.

    Attributes:
      kind: kind of the model: ``"BPE"``, ``"Unigram"``, ``"WordPiece"``, ``"WordLevel"``.
      byte_level: whether each character stands for a byte.
      prefix: in WordPiece, the prefix of pieces within a word.
      suffix: the suffix of a piece at the end of a word; it stands for a space.
    """

    kind: str
    byte_level: bool
    prefix: str
    suffix: str

    def spell(self, piece: str) -> bytes:
        """Returns the bytes that a piece stands for."""
        if self.kind == "WordPiece":
            return piece.removeprefix(self.prefix).encode()
        ends_word = self.ends_word(piece)
        text = piece[: -len(self.suffix)] if ends_word else piece
        if not self.byte_level:
            match = _BYTE_PIECE.fullmatch(text)
            spelled = bytes([int(match[1], 16)]) if match else text.replace("\u2581", " ").encode()
        elif all(character in byte_alphabet() for character in text):
            spelled = unspell(text)
        else:
            spelled = text.encode()
        return spelled + (b" " if ends_word else b"")

    def ends_word(self, piece: str) -> bool:
        """Returns whether the piece is marked as the last of a word."""
        return bool(self.suffix) and piece.endswith(self.suffix)


def piece_style(fields: dict) -> PieceStyle:
    """Returns how the pieces of a definition spell their text, given its fields."""
    model = fields["model"]
    return PieceStyle(
        kind=model.get("type") or "",
        byte_level='"ByteLevel"' in json.dumps([fields.get("pre_tokenizer"), fields.get("decoder")]),
        prefix=model.get("continuing_subword_prefix") or "",
        suffix=model.get("end_of_word_suffix") or "",
    )
