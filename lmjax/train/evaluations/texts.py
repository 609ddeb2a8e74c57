"""The texts that an evaluation reads from files: documents as tokens, with what of them is to be scored."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from lmjax.data.config import DataConfig
from lmjax.data.prepare.documents import applicable, read_documents
from lmjax.data.prepare.long_text import blocks_of, end_of
from lmjax.data.prepare.pieces import encode_in_pieces
from lmjax.data.prepare.record import Document
from lmjax.data.prepare.sources import Piece, find_files
from lmjax.tokenizers import Tokenizer
from lmjax.tokenizers.text import texts_before
from lmjax.tokenizers.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """A document as tokens.

    Attributes:
      source: the file that it is from.
      tokens_N: int32 ids of the text; special tokens around it are not among them.
      scored_N: bool, which of the tokens are to be scored: not those of a prompt (``data.prompt_field``).
      num_bytes: UTF-8 bytes of the text to be scored.
      num_characters: characters of the text to be scored.
    """

    source: str
    tokens_N: np.ndarray
    scored_N: np.ndarray
    num_bytes: int
    num_characters: int


def data_of(data: DataConfig, path: str) -> DataConfig:
    """Returns the configuration that reads all of a path as a run's data configuration reads the run's own text.

    Args:
      data: the configuration of the run's data.
      path: a file, a folder or a glob.

    Raises:
      ValueError: there is no such file, or its format is not known.
    """
    whole = data.single(path=path, prepared=None, members=(), fim_rate=0.0, valid_fraction=0.0)
    # The run's own text may have been of another kind; settings that do not apply to this text are left out.
    return applicable(whole)


def check_files(data: DataConfig, paths: Sequence[str]) -> None:
    """Refuses paths that cannot be read as text.

    Raises:
      ValueError: naming the path.
    """
    if not paths:
        raise ValueError("files: name one or more files, folders or globs")
    for path in paths:
        data_of(data, path)


def read_texts(data: DataConfig, paths: Sequence[str], tokenizer: Tokenizer, *, documents: int = 0) -> Iterator[Text]:
    """Yields the documents of files that have any text, in order.

    Args:
      data: the configuration of the run's data.
      paths: files, folders or globs.
      tokenizer: the run's tokenizer.
      documents: the number of documents to take of each file; 0 for all.

    Raises:
      ValueError: a file cannot be read.
    """
    for path in paths:
        own = data_of(data, path)
        for file in find_files(own):
            found = read_documents(own, Piece(file=file, begin=0, end=file.size))
            texts = (text for document in found if len((text := _tokenized(document, file.path, tokenizer)).tokens_N))
            yield from itertools.islice(texts, documents or None)


def _tokenized(document: Document, source: str, tokenizer: Tokenizer) -> Text:
    befores = texts_before([end_of(text) for text, _ in document.parts])
    ids, scored = [np.zeros(0, np.int32)], [np.zeros(0, bool)]
    num_bytes = num_characters = 0
    for (text, weight), before in zip(document.parts, befores, strict=True):
        pieces = encode_in_pieces(tokenizer, blocks_of(text), after=before, name=document.name, num_threads=1)
        part = np.concatenate([np.zeros(0, np.int32), *pieces]).astype(np.int32)
        ids.append(part)
        scored.append(np.full(len(part), weight > 0))
        if weight > 0:
            num_bytes += sum(len(block.encode()) for block in blocks_of(text))
            num_characters += len(text)
    return Text(
        source=source,
        tokens_N=np.concatenate(ids),
        scored_N=np.concatenate(scored),
        num_bytes=num_bytes,
        num_characters=num_characters,
    )


def before_documents(data: DataConfig, vocabulary: Vocabulary) -> int | None:
    """Returns the id that stands before the first token of each document of a run's data; None if there is none.

    It is the beginning-of-text token (``data.add_bos``) or, in an unbroken stream of documents, the end of the one
    before.

    Raises:
      ValueError: the tokenizer has no such token.
    """
    if data.add_bos:
        return vocabulary.require("bos", needed_by="data.add_bos=True")
    if data.add_eos and data.packing == "windows":
        return vocabulary.require("eos", needed_by="data.add_eos=True")
    return None


def prefix_id(data: DataConfig, vocabulary: Vocabulary, *, named: str | None = None) -> int | None:
    """Returns the id that stands before the first token of a text, so that this token can be scored, too.

    It is what the run's documents follow, see :func:`before_documents`. If they follow nothing, it is the tokenizer's
    beginning-of-text token.

    Args:
      data: the configuration of the run's data.
      vocabulary: the tokenizer's vocabulary.
      named: another special token, by its name.

    Returns:
      The id; None if there is no such token, so that the first token of a text is not scored.

    Raises:
      ValueError: the tokenizer has no token of this name.
    """
    if named is not None:
        return vocabulary.require(named, needed_by="prefix_token")
    before = before_documents(data, vocabulary)
    return vocabulary.bos_id if before is None else before


def without_first(text: Text, tokenizer: Tokenizer) -> Text:
    """Returns the text without the bytes and characters of its first token, which is not scored."""
    if not text.scored_N[0]:
        return text
    first = tokenizer.decode_bytes(text.tokens_N[:1])
    return dataclasses.replace(
        text,
        scored_N=np.concatenate([[False], text.scored_N[1:]]),
        num_bytes=text.num_bytes - len(first),
        num_characters=text.num_characters - sum((byte & 0xC0) != 0x80 for byte in first),
    )
