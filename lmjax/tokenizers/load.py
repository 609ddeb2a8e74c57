"""Loads a tokenizer from the folder it was saved to."""

import os
import pathlib
from collections.abc import Mapping

from lmjax.naming import naming
from lmjax.tokenizers.base import Tokenizer
from lmjax.tokenizers.folder import METADATA, read_folder


def load_tokenizer(folder: str | os.PathLike) -> Tokenizer:
    """Returns the tokenizer that :meth:`Tokenizer.save` wrote to ``folder``.

    Raises:
      ValueError: the folder has no tokenizer, a file was changed after it was written, or the kind is unknown.
    """
    folder = pathlib.Path(folder)
    metadata, files = read_folder(folder)
    kind, special_tokens = metadata["kind"], metadata["special_tokens"]
    with naming(folder):
        tokenizer = _of_kind(kind, files, special_tokens)
    if tokenizer.fingerprint != metadata["fingerprint"]:
        raise ValueError(
            f"{folder / METADATA}: its fingerprint {metadata['fingerprint'][:12]} is not the files' "
            f"{tokenizer.fingerprint[:12]}: the folder was edited; restore it, or train the tokenizer again"
        )
    return tokenizer


def _of_kind(kind: str, files: Mapping[str, bytes], special_tokens: Mapping[str, int]) -> Tokenizer:
    # Imported here so that a tokenizer loads only its own library.
    if kind == "bytes":
        from lmjax.tokenizers.byte import ByteTokenizer

        return ByteTokenizer(special_tokens)
    if kind == "bpe":
        from lmjax.tokenizers.bpe import BytePairTokenizer

        return BytePairTokenizer.from_files(files, special_tokens)
    if kind in ("sentencepiece_bpe", "sentencepiece_unigram"):
        from lmjax.tokenizers.sentence_piece import SentencePieceTokenizer

        return SentencePieceTokenizer.from_files(files, special_tokens)
    if kind == "tiktoken":
        from lmjax.tokenizers.ranks import RankTokenizer

        return RankTokenizer.from_files(files, special_tokens)
    if kind == "huggingface":
        from lmjax.tokenizers.huggingface import HuggingFaceTokenizer

        return HuggingFaceTokenizer.from_files(files, special_tokens)
    raise ValueError(f"{METADATA}: kind {kind!r} is not known to this version of lmjax")
