"""Tokenizers as transformers has them beside a model, read as ours."""

import pathlib
from collections.abc import Mapping
from typing import Any

import tokenizers

from lmjax.interop.hf_config import read_json
from lmjax.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer
from lmjax.tokenizers.huggingface import HuggingFaceTokenizer
from lmjax.tokenizers.sentence_piece import SentencePieceTokenizer
from lmjax.tokenizers.special import sentinel_names

DEFINITION = "tokenizer.json"
MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.model")
CONFIG = "tokenizer_config.json"
ROLES_FILE = "special_tokens_map.json"
ROLES = ("bos", "eos", "pad", "mask", "cls", "sep", "unk")

T5_SENTINELS = 100


def load_tokenizer_files(folder: pathlib.Path, hf_config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer beside a model, its special ids found by the roles the files give them.

    Args:
      folder: of the model.
      hf_config: its config.json, for ids that the tokenizer's files do not tell.

    Raises:
      ValueError: there is none, or none of a known kind.
    """
    roles = _role_names(folder)
    definition = folder / DEFINITION
    if definition.exists():
        try:
            return _from_definition(definition.read_bytes(), roles, hf_config)
        except ValueError as error:
            raise ValueError(f"{definition}: {error}") from None
    for name in MODELS:
        if (folder / name).exists():
            return _from_model(folder / name, hf_config)
    raise ValueError(
        f"{folder} has no tokenizer: there is neither {DEFINITION} nor {' nor '.join(MODELS)}; copy there the one the "
        f"model was trained with, or name it with --tokenizer"
    )


def _from_definition(definition: bytes, roles: dict[str, str], hf_config: Mapping[str, Any]) -> HuggingFaceTokenizer:
    tokenizer = HuggingFaceTokenizer.from_definition(definition, special_names=(), role_names=roles)
    known = tokenizer.vocabulary
    further = {}
    for role in ROLES:
        token_id = _first(hf_config.get(f"{role}_token_id"))
        if getattr(known, f"{role}_id") is None and token_id is not None and token_id < known.size:
            further[role] = tokenizers.Tokenizer.from_str(definition.decode()).id_to_token(token_id)
    names = {role: name for role, name in further.items() if name is not None}
    if not names:
        return tokenizer
    return HuggingFaceTokenizer.from_definition(definition, special_names=(), role_names=names | roles)


def _from_model(path: pathlib.Path, hf_config: Mapping[str, Any]) -> Tokenizer:
    if hf_config.get("model_type") != "t5":
        return build_tokenizer(TokenizerConfig(path=str(path), special_tokens=()), lambda: ())
    # T5's model ends before the sentinels, whose ids go down from the last.
    plain = SentencePieceTokenizer.from_model(path.read_bytes(), special_names=())
    extra = read_json(path.with_name(CONFIG)).get("extra_ids") if path.with_name(CONFIG).exists() else None
    names = sentinel_names(T5_SENTINELS if extra is None else extra)
    last = plain.vocabulary.size + len(names) - 1
    sentinels = {name: last - index for index, name in enumerate(names)}
    return SentencePieceTokenizer(path.read_bytes(), {**plain.special_tokens, **sentinels})


def _first(value: Any) -> int | None:
    return (value[0] if value else None) if isinstance(value, list) else value


def _role_names(folder: pathlib.Path) -> dict[str, str]:
    """Role to token, by the files that say it."""
    names = {}
    for file in (ROLES_FILE, CONFIG):
        if not (folder / file).exists():
            continue
        values = read_json(folder / file)
        for role in ROLES:
            value = values.get(f"{role}_token")
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                names[role] = value
    return names


def begins_with_bos(folder: pathlib.Path, tokenizer: Tokenizer) -> bool:
    """Whether the model's own tokenizer puts a beginning-of-text token before a text."""
    bos_id = tokenizer.vocabulary.bos_id
    if bos_id is None:
        return False
    if isinstance(tokenizer, HuggingFaceTokenizer):
        library = tokenizers.Tokenizer.from_str(tokenizer.files()[DEFINITION].decode())
        return library.encode("a").ids[:1] == [bos_id]
    config = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    return bool(config.get("add_bos_token", True))
