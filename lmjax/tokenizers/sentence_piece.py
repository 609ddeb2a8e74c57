"""SentencePiece (Kudo and Richardson 2018): BPE or unigram (Kudo 2018) pieces over raw characters.

A space is written U+2581 inside a piece. Trained here, a model is lossless: no normalisation, no
space put in front, none taken away, and a character without a piece spelled in bytes. That leaves
U+2581 itself, which SentencePiece cannot tell from a space: it is spelled in bytes as well.

Lines are what it is trained on, without their ends, so no piece crosses a line: a newline is the
one piece ``<0x0A>``.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

import sentencepiece

from lmjax.tokenizers.base import Tokenizer
from lmjax.tokenizers.special import append_special_tokens, is_known_name, is_sentinel

SPACE = "\u2581"
_FILE = "tokenizer.model"
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
# Spelled in bytes whatever is learned: line ends, SentencePiece's reserved characters, and its space.
_NOT_LEARNED = re.compile(f"[\n\r\t\0{SPACE}]+")
# SentencePiece leaves out lines of more than 4,192 bytes; a character has four at most.
_LINE = 1024


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, trained here or loaded from a ``.model`` file."""

    def __init__(self, model: bytes, special_tokens: Mapping[str, int]):
        """A tokenizer from a serialized model.

        Args:
          model: the ``.model`` file's bytes.
          special_tokens: name to id; the model's own, and any that follow its pieces.

        Raises:
          ValueError: ``model`` is not a SentencePiece model.
        """
        self._model = model
        self._processor = _read(model)
        size = self._processor.vocab_size()
        text_ids = [i for i in range(size) if i not in set(special_tokens.values())]
        table = [b""] * size
        for token_id in text_ids:
            table[token_id] = _piece_bytes(self._processor, token_id)
        super().__init__(
            _kind(self._processor, text_ids),
            token_bytes=table,
            special_tokens=special_tokens,
            definition=model,
            roles=_roles(self._processor),
        )
        byte_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        self._byte_ids = byte_ids if all(self._processor.is_byte(token_id) for token_id in byte_ids) else None
        self._adds_space = self._processor.encode_as_pieces("a")[0].startswith(SPACE)

    @classmethod
    def train(cls, texts: Iterable[str], *, algorithm: str, num_text_ids: int, special_names: Sequence[str]) -> Self:
        """Learns ``num_text_ids - 257`` pieces (256 are bytes, one is unknown) from ``texts``.

        Args:
          texts: the training text.
          algorithm: ``"bpe"`` or ``"unigram"``.
          num_text_ids: the model's size, without the special tokens that follow.
          special_names: the special tokens, in the order of their ids.

        Raises:
          ValueError: the texts are empty, or too few or too varied for the size.
        """
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_lines(texts),
                model_writer=model,
                model_type=algorithm,
                vocab_size=num_text_ids,
                byte_fallback=True,
                split_digits=True,
                allow_whitespace_only_pieces=True,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                # Part of the result: each thread sums its own share of the lines.
                num_threads=8,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(_explain(str(error), num_text_ids, len(special_names))) from None
        special_tokens = append_special_tokens({"<unk>": 0}, special_names, first_id=num_text_ids)
        return cls(model.getvalue(), special_tokens)

    @classmethod
    def from_model(cls, model: bytes, *, special_names: Sequence[str]) -> Self:
        """An existing model; those of ``special_names`` it lacks follow its last id.

        Raises:
          ValueError: ``model`` is not a SentencePiece model.
        """
        processor = _read(model)
        names = {i: _special_name(processor, i) for i in range(processor.vocab_size())}
        present = {name: i for i, name in names.items() if name is not None}
        return cls(model, append_special_tokens(present, special_names, first_id=processor.vocab_size()))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], special_tokens: Mapping[str, int]) -> Self:
        """The tokenizer whose :meth:`files` these are.

        Raises:
          ValueError: the model is missing or not readable.
        """
        if _FILE not in files:
            raise ValueError(f"the tokenizer's metadata lists no {_FILE}: restore it, or train the tokenizer again")
        return cls(files[_FILE], special_tokens)

    def files(self) -> dict[str, bytes]:
        """The model file."""
        return {_FILE: self._model}

    def _encode(self, text: str) -> list[int]:
        # Where the model puts a space before each text, cutting one text in two would add a space.
        if SPACE not in text or self._byte_ids is None or self._adds_space:
            return self._processor.encode(text)
        ids: list[int] = []
        for position, part in enumerate(text.split(SPACE)):
            ids += (self._spell(SPACE) if position else []) + self._processor.encode(part)
        return ids

    def _spell(self, name: str) -> list[int]:
        if self._byte_ids is not None:
            return [self._byte_ids[byte] for byte in name.encode()]
        return [self._processor.piece_to_id(character) for character in name]

    def _text_bytes(self, ids: Sequence[int]) -> bytes:
        text = super()._text_bytes(ids)
        return text.removeprefix(b" ") if self._adds_space else text


def _read(model: bytes) -> sentencepiece.SentencePieceProcessor:
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model) if model else None
    except RuntimeError:
        processor = None
    if processor is None or not processor.vocab_size():
        raise ValueError("not a SentencePiece model, or a damaged one: check tokenizer.path")
    return processor


def _special_name(processor: sentencepiece.SentencePieceProcessor, token_id: int) -> str | None:
    """The name of a special token; None for pieces of text."""
    piece = processor.id_to_piece(token_id)
    if processor.is_control(token_id) or processor.is_unknown(token_id) or is_known_name(piece):
        return piece
    # The model of mT5 has T5's sentinels among its pieces, as words of their own.
    word = piece.removeprefix(SPACE)
    return word if is_sentinel(word) else None


def _piece_bytes(processor: sentencepiece.SentencePieceProcessor, token_id: int) -> bytes:
    piece = processor.id_to_piece(token_id)
    if processor.is_byte(token_id):
        return bytes([int(_BYTE_PIECE.fullmatch(piece)[1], 16)])  # type: ignore[index]
    return piece.replace(SPACE, " ").encode()


def _kind(processor: sentencepiece.SentencePieceProcessor, text_ids: Sequence[int]) -> str:
    # A BPE model's scores are the ranks of its merges; a unigram model's are log-probabilities.
    whole = all(float(processor.get_score(token_id)).is_integer() for token_id in text_ids)
    return "sentencepiece_bpe" if whole else "sentencepiece_unigram"


def _roles(processor: sentencepiece.SentencePieceProcessor) -> dict[str, int]:
    roles = {
        "unk": processor.unk_id(),
        "bos": processor.bos_id(),
        "eos": processor.eos_id(),
        "pad": processor.pad_id(),
    }
    return {role: token_id for role, token_id in roles.items() if token_id >= 0}


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in _NOT_LEARNED.split(text):
            for start in range(0, len(line), _LINE):
                yield line[start : start + _LINE]


def _explain(error: str, num_text_ids: int, num_special: int) -> str:
    """The user's words for what the trainer's own message says."""
    if "sentences_.empty()" in error:
        return "the tokenizer's training corpus is empty: check the data's path"
    field = f"tokenizer.vocab_size={num_text_ids + num_special}"
    if match := re.search(r"set it to a value <= (\d+)", error):
        most = int(match[1]) + num_special
        return f"{field}: the training text has pieces for {most} at most; lower it, or train on more text"
    if match := re.search(r"required_chars\. \d+ vs (\d+)", error):
        least = int(match[1]) + num_special
        return f"{field}: the characters of the training text alone need {least}; raise it to that"
    return f"{field}: SentencePiece could not train on this text: {error}"
