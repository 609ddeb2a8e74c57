"""Reads the tokenizer files that transformers keeps beside a model."""

import pathlib
from collections.abc import Mapping
from typing import Any

import tokenizers

from lmjax.interop.hf_config import read_json
from lmjax.tokenizers import Tokenizer
from lmjax.tokenizers.declared import CONFIG, ROLES
from lmjax.tokenizers.huggingface import HuggingFaceTokenizer
from lmjax.tokenizers.published import DEFINITION, MODELS, NoTokenizer, read_published
from lmjax.tokenizers.sentence_piece import SentencePieceTokenizer
from lmjax.tokenizers.special import sentinel_names

T5_SENTINELS = 100


def load_tokenizer_files(folder: pathlib.Path, hf_config: Mapping[str, Any]) -> Tokenizer:
    """Returns the tokenizer beside a model, with special ids in the roles that the files give them.

    Args:
      folder: the model's folder.
      hf_config: the content of its config.json, for ids that the tokenizer's files do not give.

    Raises:
      ValueError: there is no tokenizer, or it is of an unknown kind.
    """
    try:
        tokenizer = read_published(folder, special_names=())
    except NoTokenizer:
        raise ValueError(
            f"{folder} has no tokenizer: there is neither {DEFINITION} nor {' nor '.join(MODELS)}; copy there the one "
            f"the model was trained with, or name it with --tokenizer"
        ) from None
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return _with_further_roles(tokenizer, hf_config)
    if isinstance(tokenizer, SentencePieceTokenizer) and hf_config.get("model_type") == "t5":
        return tokenizer if tokenizer.vocabulary.sentinel_ids else _with_sentinels(folder, tokenizer)
    return tokenizer


def _with_further_roles(tokenizer: HuggingFaceTokenizer, hf_config: Mapping[str, Any]) -> HuggingFaceTokenizer:
    """Returns the tokenizer with those roles added that only the model's configuration gives, by id."""
    definition = tokenizer.files()[DEFINITION]
    known = tokenizer.vocabulary
    library = tokenizers.Tokenizer.from_str(definition.decode())
    further = {}
    for role in ROLES:
        token_id = _first(hf_config.get(f"{role}_token_id"))
        if getattr(known, f"{role}_id") is None and isinstance(token_id, int) and 0 <= token_id < known.size:
            further[role] = library.id_to_token(token_id)
    names = {role: name for role, name in further.items() if name is not None}
    if not names:
        return tokenizer
    return HuggingFaceTokenizer.from_definition(definition, special_names=(), role_names=names | tokenizer.role_names)


def _with_sentinels(folder: pathlib.Path, plain: SentencePieceTokenizer) -> Tokenizer:
    """Returns T5's tokenizer with its sentinels, which the SentencePiece model lacks.

    Their ids come after those of the model; sentinel 0 has the last id, and the ids go down from there.
    """
    extra = read_json(folder / CONFIG).get("extra_ids") if (folder / CONFIG).exists() else None
    names = sentinel_names(T5_SENTINELS if extra is None else extra)
    last = plain.vocabulary.size + len(names) - 1
    sentinels = {name: last - index for index, name in enumerate(names)}
    model = plain.files()[MODELS[0]]
    return SentencePieceTokenizer(model, {**plain.special_tokens, **sentinels}, role_names=plain.role_names)


def _first(value: Any) -> int | None:
    return (value[0] if value else None) if isinstance(value, list) else value


def begins_with_bos(folder: pathlib.Path, tokenizer: Tokenizer) -> bool:
    """Returns whether the model's own tokenizer puts a beginning-of-text token before a text."""
    bos_id = tokenizer.vocabulary.bos_id
    if bos_id is None:
        return False
    if isinstance(tokenizer, HuggingFaceTokenizer):
        library = tokenizers.Tokenizer.from_str(tokenizer.files()[DEFINITION].decode())
        return library.encode("a").ids[:1] == [bos_id]
    config = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    return bool(config.get("add_bos_token", True))
