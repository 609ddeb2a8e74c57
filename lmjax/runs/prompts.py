"""Prompts as token ids, in the form in which a run's model has met the beginnings of its documents."""

import re
from collections.abc import Callable, Sequence

from lmjax.objectives.parts.encoder_decoder import EncoderDecoderObjective
from lmjax.runs.opened import Opened
from lmjax.tokenizers import Tokenizer
from lmjax.train.evaluations.texts import before_documents

KNOWN_MARKERS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
)
"""Names that published tokenizers give the tokens before a prefix, a suffix and a middle."""


def context_ids(run: Opened) -> list[int]:
    """Returns the ids that stand before the first token of a document; none where the data put nothing there."""
    before = before_documents(run.config.data, run.tokenizer.vocabulary)
    return [] if before is None else [before]


def prompt_ids(run: Opened, text: str) -> list[int]:
    """Returns the ids of a prompt that a decoder continues.

    Raises:
      ValueError: the prompt is empty, and the documents of the run begin with no special token.
    """
    ids = run.tokenizer.encode(text).tolist()
    if run.config.data.add_bos or not ids:
        ids = [*context_ids(run), *ids]
    if not ids:
        raise ValueError('--prompt "": this run\'s documents begin with no special token: give some text')
    return ids


def source_ids(run: Opened, text: str, objective: EncoderDecoderObjective) -> list[int]:
    """Returns the ids of a text that an encoder reads. Names of special tokens in it are those tokens."""
    vocabulary, data = run.tokenizer.vocabulary, run.config.data
    ids = [vocabulary.require("bos", needed_by="data.add_bos=True")] if data.add_bos else []
    ids += ids_with_names(run.tokenizer, text)
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


def middle_ids(run: Opened, prefix: str, suffix: str, markers: Sequence[str]) -> list[int]:
    """Returns the ids after which a fill-in-the-middle model writes what stands between two texts.

    Args:
      run: the run.
      prefix: the text before the gap.
      suffix: the text after the gap.
      markers: names of the tokens before the prefix, the suffix and the middle.

    Raises:
      ValueError: the tokenizer lacks a marker.
    """
    vocabulary, tokenizer = run.tokenizer.vocabulary, run.tokenizer
    before_prefix, before_suffix, before_middle = (
        vocabulary.require(marker, needed_by="filling in the middle") for marker in markers
    )
    return [
        *(context_ids(run) if run.config.data.add_bos else []),
        before_prefix,
        *tokenizer.encode(prefix, after="").tolist(),
        before_suffix,
        *tokenizer.encode(suffix, after="").tolist(),
        before_middle,
    ]
