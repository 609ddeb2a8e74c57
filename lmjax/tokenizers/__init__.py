"""Tokenizers (bytes, byte-level BPE, SentencePiece, Hugging Face files) and the facts about their ids."""

from lmjax.tokenizers.base import Tokenizer
from lmjax.tokenizers.build import build_tokenizer, train_and_save
from lmjax.tokenizers.config import TokenizerConfig
from lmjax.tokenizers.describe import describe
from lmjax.tokenizers.load import load_tokenizer
from lmjax.tokenizers.vocabulary import Vocabulary

__all__ = [
    "Tokenizer",
    "TokenizerConfig",
    "Vocabulary",
    "build_tokenizer",
    "describe",
    "load_tokenizer",
    "train_and_save",
]
