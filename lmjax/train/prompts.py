"""Prompts as token ids, in the form in which a run's model has met the beginnings of its documents, and texts back."""

import re
from collections.abc import Callable, Sequence

from lmjax.data.config import DataConfig
from lmjax.objectives.parts.encoder_decoder import EncoderDecoderObjective
from lmjax.tokenizers import Tokenizer
from lmjax.train.evaluations.texts import before_documents


def context_ids(data: DataConfig, tokenizer: Tokenizer) -> list[int]:
    """Returns the ids that stand before the first token of a document; none where the data put nothing there."""
    before = before_documents(data, tokenizer.vocabulary)
    return [] if before is None else [before]


def prompt_ids(data: DataConfig, tokenizer: Tokenizer, text: str) -> list[int]:
    """Returns the ids of a prompt that a decoder continues.

    Raises:
      ValueError: the prompt is empty, and the documents of the run begin with no special token.
    """
    ids = tokenizer.encode(text).tolist()
    if data.add_bos or not ids:
        ids = [*context_ids(data, tokenizer), *ids]
    if not ids:
        raise ValueError("an empty prompt: the documents of this run begin with no special token: give some text")
    return ids


def source_ids(data: DataConfig, tokenizer: Tokenizer, text: str, objective: EncoderDecoderObjective) -> list[int]:
    """Returns the ids of a text that an encoder reads. Names of special tokens in it are those tokens."""
    vocabulary = tokenizer.vocabulary
    ids = [vocabulary.require("bos", needed_by="data.add_bos=True")] if data.add_bos else []
    ids += ids_with_names(tokenizer, text)
    if objective.ends_input or (data.add_eos and data.packing != "windows"):
        ids.append(vocabulary.require("eos", needed_by=type(objective).__name__))
    return ids


def ids_with_names(tokenizer: Tokenizer, text: str, *, unquote: Callable[[str], str] = str) -> list[int]:
    """Returns the ids of a text in which the names of special tokens stand for those tokens.

    Args:
      tokenizer: the tokenizer.
      text: the text.
      unquote: what is done to the text between the names before it is encoded. Names that are made by it are not read.
    """
    names = sorted(tokenizer.special_tokens, key=len, reverse=True)
    ids: list[int] = []
    before: str | None = None
    for number, piece in enumerate(re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]):
        # Every second piece is one of the names that the text was split at.
        if number % 2:
            ids.append(tokenizer.special_tokens[piece])
            before = before or ""
        elif piece:
            piece = unquote(piece)
            ids += tokenizer.encode(piece, after=before).tolist()
            before = (before or "") + piece
    return ids


def bytes_after(tokenizer: Tokenizer, text: str, prompt: Sequence[int], ids: Sequence[int]) -> bytes:
    """Returns the bytes that ``ids`` add to a prompt.

    Args:
      tokenizer: the tokenizer.
      text: the prompt. Some tokenizers forget a space at its end, and the continuation's first space is then left out.
      prompt: its ids.
      ids: those of the continuation.
    """
    shown = tokenizer.decode_bytes(prompt)
    new = tokenizer.decode_bytes([*prompt, *ids])[len(shown) :]
    forgotten = text[-1:].isspace() and not shown.decode(errors="replace")[-1:].isspace()
    return new.removeprefix(b" ") if forgotten else new


def answer_bytes(tokenizer: Tokenizer) -> Callable[[Sequence[int]], bytes]:
    """Returns the map from ids that a decoder writes about a source to their bytes, with special tokens by name."""
    bos_id = tokenizer.vocabulary.bos_id

    def decode(ids: Sequence[int]) -> bytes:
        return tokenizer.decode_bytes([token_id for token_id in ids if token_id != bos_id], skip_special=False)

    return decode
