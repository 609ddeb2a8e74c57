"""Makes a tokenizer from a configuration, by training or loading it."""

import os
import pathlib
from collections.abc import Callable, Iterable

from lmjax.tokenizers.base import Tokenizer
from lmjax.tokenizers.byte import ByteTokenizer
from lmjax.tokenizers.config import TokenizerConfig
from lmjax.tokenizers.corpus import sample_corpus
from lmjax.tokenizers.folder import METADATA
from lmjax.tokenizers.load import load_tokenizer
from lmjax.tokenizers.published import read_published


def build_tokenizer(config: TokenizerConfig, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """Returns the tokenizer that ``config`` describes, trained, or loaded from its ``path``.

    Training reads ``texts()`` once, keeps a bounded sample of it, and prints nothing. It gives the same
    tokenizer for the same texts and configuration.

    Args:
      config: the tokenizer to build.
      texts: returns the corpus; it is called only if a tokenizer is trained.

    Raises:
      ValueError: the corpus is empty or too small for ``vocab_size``; or ``path`` holds no
        tokenizer, or not the one that ``config`` describes.
    """
    if config.path is not None:
        return _load(config)
    names = config.all_special_tokens
    if config.kind in (None, "bytes"):
        return ByteTokenizer({name: 256 + index for index, name in enumerate(names)})
    assert config.vocab_size is not None
    sample = sample_corpus(texts(), max_bytes=config.max_train_bytes, seed=config.seed)
    num_text_ids = config.vocab_size - len(names)
    # Imported here so that a tokenizer loads only its own library.
    if config.kind == "bpe":
        from lmjax.tokenizers.bpe import BytePairTokenizer

        return BytePairTokenizer.train(sample, num_text_ids=num_text_ids, special_names=names)
    from lmjax.tokenizers.sentence_piece import SentencePieceTokenizer

    algorithm = "bpe" if config.kind == "sentencepiece_bpe" else "unigram"
    return SentencePieceTokenizer.train(sample, algorithm=algorithm, num_text_ids=num_text_ids, special_names=names)


def train_and_save(config: TokenizerConfig, texts: Callable[[], Iterable[str]], folder: str | os.PathLike) -> Tokenizer:
    """Saves the tokenizer of :func:`build_tokenizer` to ``folder``, and returns it.

    Raises:
      ValueError: :func:`build_tokenizer` raises it, or ``folder`` holds another tokenizer.
    """
    tokenizer = build_tokenizer(config, texts)
    tokenizer.save(folder)
    return tokenizer


def _load(config: TokenizerConfig) -> Tokenizer:
    path = pathlib.Path(config.path)  # type: ignore[arg-type]
    if not path.exists():
        raise ValueError(f"tokenizer.path={config.path}: there is no such file or folder")
    names = config.all_special_tokens
    if (path / METADATA).exists():
        tokenizer = load_tokenizer(path)
    else:
        tokenizer = read_published(path, special_names=names, pattern=config.pattern)
    if config.pattern is not None and tokenizer.kind != "tiktoken":
        raise ValueError(
            f"tokenizer.pattern={config.pattern!r}: tokenizer.path={config.path} is {tokenizer.kind!r}, which says "
            f"how it cuts text: leave it out"
        )
    _check_agrees(config, tokenizer)
    return tokenizer


def _check_agrees(config: TokenizerConfig, tokenizer: Tokenizer) -> None:
    if config.kind not in (None, tokenizer.kind):
        raise ValueError(
            f"tokenizer.kind={config.kind!r}, but tokenizer.path={config.path} holds {tokenizer.kind!r}: "
            f"set kind to None or to that"
        )
    size = tokenizer.vocabulary.size
    if config.vocab_size not in (None, size):
        raise ValueError(
            f"tokenizer.vocab_size={config.vocab_size}, but tokenizer.path={config.path} has {size} ids: "
            f"set vocab_size to None or to that"
        )
    sentinels = tokenizer.vocabulary.sentinel_ids
    missing = [name for name in config.named if name not in tokenizer.special_tokens]
    if missing or config.num_sentinels > len(sentinels):
        raise ValueError(
            f"tokenizer.path={config.path} has {len(sentinels)} sentinels and lacks {missing}: "
            f"a saved tokenizer is not extended; train one with these special tokens"
        )
