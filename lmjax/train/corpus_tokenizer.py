"""The tokenizer of a recipe's data: the one that is saved there, or one that is trained on the text."""

import pathlib
from collections.abc import Iterable

from lmjax.data.config import DataConfig
from lmjax.data.prepare.documents import texts
from lmjax.data.prepare.prepare import PREPARING, refuse_foreign
from lmjax.data.stored import place_of
from lmjax.naming import naming
from lmjax.parallel.folder_lock import folder_lock
from lmjax.parallel.signals import kept
from lmjax.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer, load_tokenizer, train_and_save
from lmjax.tokenizers.corpus import sample_corpus
from lmjax.tokenizers.folder import METADATA
from lmjax.tokenizers.special import role_of

READ_FOR_SAMPLE = 32
"""How many times the bytes of a tokenizer's training sample are read of a larger corpus."""


def load_or_train_tokenizer(data: DataConfig, config: TokenizerConfig, folder: pathlib.Path) -> Tokenizer:
    """Returns the tokenizer saved in ``folder``; if there is none, it is trained on the training documents first."""
    if (folder / METADATA).exists():
        saved = load_tokenizer(folder)
        check_same_tokenizer(config, saved, folder)
        return saved
    if not data.sources:
        refuse_foreign(folder.parent)
    again = kept("the tokenizer was not finished: the next start trains it anew")
    with folder_lock(folder.parent, PREPARING), again:
        return train_and_save(config, lambda: training_texts(data, config), folder)


def training_texts(data: DataConfig, config: TokenizerConfig) -> Iterable[str]:
    """Yields the texts that a tokenizer is trained on: of several sources, an equal sample of each.

    Of a corpus that is much larger than the sample, only some pieces are read, spread over all of it.

    Raises:
      ValueError: as :func:`lmjax.data.prepare.documents.texts`.
    """
    # A source that is prepared elsewhere may have no text here.
    parts = {name: part for name, part in data.parts.items() if data.mixture or data.sources[name].path is not None}
    if not parts:
        yield from texts(data, most_bytes=READ_FOR_SAMPLE * config.max_train_bytes, seed=config.seed)
    for name, part in parts.items():
        own_bytes = max(config.max_train_bytes // len(parts), 1)
        with naming(f"data.sources: {name}"):
            pieces = texts(part, most_bytes=READ_FOR_SAMPLE * own_bytes, seed=config.seed)
            yield from sample_corpus(pieces, max_bytes=own_bytes, seed=config.seed)


def check_same_tokenizer(config: TokenizerConfig, saved: Tokenizer, folder: pathlib.Path) -> None:
    """Refuses a recipe whose tokenizer cannot be the one the shards were made with.

    Raises:
      ValueError: it cannot.
    """
    if config.path is not None:
        differs = build_tokenizer(config, lambda: ()).fingerprint != saved.fingerprint
    else:
        kinds_differ = (config.kind or "bytes") != saved.kind
        sizes_differ = config.vocab_size not in (None, saved.vocabulary.size)
        asked = config.all_special_tokens
        saved_names = sorted(saved.special_tokens, key=saved.special_tokens.__getitem__)
        # SentencePiece adds an unknown token even if the recipe does not ask for one.
        names_differ = list(asked) != [name for name in saved_names if name in asked or role_of(name) != "unk"]
        differs = kinds_differ or sizes_differ or names_differ
    if differs:
        raise ValueError(
            f"{place_of(folder)} holds data made with another tokenizer ({saved.kind}, {saved.vocabulary.size} ids, "
            f"special tokens {' '.join(saved.special_tokens)}) than the recipe's: change the recipe's tokenizer "
            f"to that, or prepare into another folder (data.prepared)"
        )
