"""SentencePiece (Kudo and Richardson 2018): BPE or unigram (Kudo 2018) pieces over raw characters.

Inside a piece, a space is written U+2581. A model trained here is lossless: it does not normalise text, it neither
adds a space in front nor removes any, and it spells a character without a piece in bytes. It also spells
U+2581 itself in bytes, because SentencePiece cannot tell it from a space.

The model is trained on lines without their ends, so no piece crosses a line. A newline is the single piece
``<0x0A>``.
"""

import functools
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

import sentencepiece

from lmjax.tokenizers.anchor import anchor_for
from lmjax.tokenizers.base import Tokenizer
from lmjax.tokenizers.declared import Declared, read_role_names, write_role_names
from lmjax.tokenizers.special import append_special_tokens, is_known_name, is_sentinel

SPACE = "\u2581"
_FILE = "tokenizer.model"
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
# Line ends, SentencePiece's reserved characters and its space are always spelled in bytes.
_NOT_LEARNED = re.compile(f"[\n\r\t\0{SPACE}]+")
# SentencePiece leaves out lines of more than 4,192 bytes; a character has at most four.
_LINE = 1024


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, trained here or loaded from a ``.model`` file."""

    def __init__(self, model: bytes, special_tokens: Mapping[str, int], *, role_names: Mapping[str, str] | None = None):
        """Makes a tokenizer from a serialized model.

        Args:
          model: the ``.model`` file's bytes.
          special_tokens: from name to id, for the model's own special tokens and any that follow its pieces.
          role_names: from role (``"eos"``) to the special token that has it, where the model says otherwise.

        Raises:
          ValueError: ``model`` is not a SentencePiece model.
        """
        self._model = model
        self.role_names = dict(role_names or {})
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
            roles=_roles(self._processor) | {role: special_tokens[name] for role, name in self.role_names.items()},
        )
        byte_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        self._byte_ids = byte_ids if all(self._processor.is_byte(token_id) for token_id in byte_ids) else None
        self._adds_space = "".join(self._processor.encode_as_pieces("a")).startswith(SPACE)

    @classmethod
    def train(cls, texts: Iterable[str], *, algorithm: str, num_text_ids: int, special_names: Sequence[str]) -> Self:
        """Learns ``num_text_ids - 257`` pieces from ``texts``; the other 257 are the bytes and the unknown token.

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
                # Without this, a sample without spaces would give a model without one, which would spell it as the
                # bytes of another character.
                required_chars=SPACE,
                split_digits=True,
                allow_whitespace_only_pieces=True,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                # The number of threads changes the result, since each sums its own share of the lines.
                num_threads=8,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(_explain(str(error), num_text_ids, len(special_names))) from None
        special_tokens = append_special_tokens({"<unk>": 0}, special_names, first_id=num_text_ids)
        return cls(model.getvalue(), special_tokens)

    @classmethod
    def from_model(cls, model: bytes, *, special_names: Sequence[str], declared: Declared | None = None) -> Self:
        """Returns the tokenizer of an existing model; missing ``special_names`` get ids after its last id.

        Args:
          model: the ``.model`` file's bytes.
          special_names: special tokens it should have.
          declared: what the files beside it declare.

        Raises:
          ValueError: ``model`` is not a SentencePiece model, or does not agree with what is declared.
        """
        declared = declared or Declared()
        processor = _read(model)
        if "".join(processor.encode_as_pieces("a")).endswith(SPACE):
            raise ValueError(
                "this SentencePiece model puts its space after a word (treat_whitespace_as_suffix), and the parts of a "
                "text could not be told from its words: train one without that option"
            )
        size = processor.vocab_size()
        names = {i: _special_name(processor, i) for i in range(size)}
        present = {name: i for i, name in names.items() if name is not None}
        present |= _declared_tokens(processor, declared)
        played = {role: name for role, name in declared.role_names.items() if name in present}
        first = max([size - 1, *present.values()]) + 1
        return cls(model, append_special_tokens(present, special_names, first_id=first), role_names=played)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], special_tokens: Mapping[str, int]) -> Self:
        """Returns the tokenizer whose :meth:`files` these are.

        Raises:
          ValueError: the model is missing or not readable.
        """
        if _FILE not in files:
            raise ValueError(f"the tokenizer's metadata lists no {_FILE}: restore it, or train the tokenizer again")
        return cls(files[_FILE], special_tokens, role_names=read_role_names(files, special_tokens))

    def files(self) -> dict[str, bytes]:
        """Returns the model file, and a file with the roles that it does not show."""
        return {_FILE: self._model, **write_role_names(self.role_names)}

    def _encode(self, text: str) -> list[int]:
        return self._with_marks(text, later=False)

    def _encode_later(self, before: str, text: str) -> list[int]:
        forgotten = self._forgotten_end(before)
        # Only whitespace that the tokenizer drops comes before, so the document begins here.
        later = not before or forgotten != before
        return self._with_marks(forgotten + text, later=later)

    def _with_marks(self, text: str, *, later: bool) -> list[int]:
        """Returns the ids of a text; a literal U+2581 is spelled in bytes, if the model has bytes."""
        if SPACE not in text or self._byte_ids is None:
            return self._pieces(text, later=later)
        first, *others = text.split(SPACE)
        ids = self._pieces(first, later=later)
        for part in others:
            ids += self._spell(SPACE) + self._pieces(part, later=True)
        return ids

    def _pieces(self, text: str, *, later: bool) -> list[int]:
        if not later or not (self._adds_space or self._drops_spaces):
            return self._processor.encode(text)
        anchor = anchor_for(text)
        ids = self._anchored(anchor).encode(anchor + text)
        return ids[ids.index(self._processor.vocab_size()) + 1 :]

    @functools.cache  # noqa: B019
    def _anchored(self, anchor: str) -> sentencepiece.SentencePieceProcessor:
        """Returns the model with one more piece: the anchor's character, which is never merged with others."""
        # Two serialized protocol buffers, joined end to end, make one that has the repeated fields of both. The piece
        # added to ModelProto.pieces (1) has piece (1), score (2) and type (3) = USER_DEFINED.
        text = anchor.encode()
        piece = b"\x0a" + bytes([len(text)]) + text + b"\x15\0\0\0\0\x18\x04"
        return _read(self._model + b"\x0a" + bytes([len(piece)]) + piece)

    def _spell(self, name: str) -> list[int]:
        if self._byte_ids is not None:
            return [self._byte_ids[byte] for byte in name.encode()]
        return [self._processor.piece_to_id(character) for character in name]

    def _text_bytes(self, ids: Sequence[int], *, begins: bool, ends: bool) -> bytes:
        text = super()._text_bytes(ids, begins=begins, ends=ends)
        return text.removeprefix(b" ") if begins and self._adds_space else text


def _read(model: bytes) -> sentencepiece.SentencePieceProcessor:
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model) if model else None
    except RuntimeError:
        processor = None
    if processor is None or not processor.vocab_size():
        raise ValueError("not a SentencePiece model, or a damaged one: check tokenizer.path")
    return processor


def _special_name(processor: sentencepiece.SentencePieceProcessor, token_id: int) -> str | None:
    """Returns the name of a special token; None for pieces of text."""
    piece = processor.id_to_piece(token_id)
    if processor.is_control(token_id) or processor.is_unknown(token_id) or is_known_name(piece):
        return piece
    # The model of mT5 has T5's sentinels among its pieces, as ordinary words.
    word = piece.removeprefix(SPACE)
    return word if is_sentinel(word) else None


def _declared_tokens(processor: sentencepiece.SentencePieceProcessor, declared: Declared) -> dict[str, int]:
    """Returns the special tokens that files beside a model declare, from name to id.

    Raises:
      ValueError: an id belongs to another piece, ids leave a gap, or a file adds a token that is not special.
    """
    size = processor.vocab_size()
    tokens = {}
    for name, token_id in declared.added.items():
        if token_id < size and processor.id_to_piece(token_id) != name:
            raise ValueError(
                f"{declared.source} gives {name!r} the id {token_id}, which the model gives to "
                f"{processor.id_to_piece(token_id)!r}: use this tokenizer's tokenizer.json, which transformers writes"
            )
        if token_id >= size and name not in declared.special:
            raise ValueError(
                f"{declared.source} adds {name!r}, a token that is not special and that text is searched for; with a "
                f"SentencePiece model such tokens are not read: use the tokenizer.json of this tokenizer, which "
                f"transformers writes (save_pretrained)"
            )
        if name in declared.special:
            tokens[name] = token_id
    beyond = sorted(token_id for token_id in tokens.values() if token_id >= size)
    if beyond != [*range(size, size + len(beyond))]:
        raise ValueError(
            f"{declared.source}: the ids {beyond[:8]} do not follow the {size} of the model: correct the file"
        )
    for name in declared.role_names.values():
        token_id = processor.piece_to_id(name)
        if name not in tokens and processor.id_to_piece(token_id) == name:
            tokens[name] = token_id
    return tokens


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
    """Returns the message of the trainer in the user's terms."""
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
