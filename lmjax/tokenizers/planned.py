"""Predicts a tokenizer's vocabulary before it is trained, which is enough to build a model without its weights."""

from typing import Any

import numpy as np

from lmjax.tokenizers.build import build_tokenizer
from lmjax.tokenizers.config import TokenizerConfig
from lmjax.tokenizers.special import assign_roles, ordered_sentinels
from lmjax.tokenizers.vocabulary import Vocabulary


def planned_vocabulary(config: TokenizerConfig) -> Vocabulary:
    """Returns the vocabulary with the size and special ids that training will make.

    A tokenizer that exists already, or needs no training, is opened instead. Facts that only training can show are
    assumed: every id is a word of one byte, and a sentence.

    Args:
      config: see :class:`TokenizerConfig`.

    Raises:
      ValueError: ``tokenizer.path`` cannot be read.
    """
    if config.path is not None or config.kind in (None, "bytes"):
        return build_tokenizer(config, lambda: ()).vocabulary
    names = config.all_special_tokens
    size = config.vocab_size or 256 + len(names)
    ids = {name: size - len(names) + index for index, name in enumerate(names)}
    roles: dict[str, Any] = {f"{role}_id": token_id for role, token_id in assign_roles(ids).items()}
    return Vocabulary(
        size=size,
        **roles,
        sentinel_ids=tuple(ordered_sentinels(ids).values()),
        named_ids=ids,
        byte_length_V=np.ones(size, np.int32),
        word_start_V=np.ones(size, bool),
        sentence_end_V=np.ones(size, bool),
    )
