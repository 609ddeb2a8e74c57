"""Tokenizers as transformers has them beside a model: what becomes one of ours, and what one of ours becomes."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import tokenizers

from lmjax.interop.hf_config import read_json
from lmjax.interop.sentencepiece_json import as_huggingface
from lmjax.tokenizers import Tokenizer
from lmjax.tokenizers.bpe import BytePairTokenizer, byte_alphabet
from lmjax.tokenizers.declared import CONFIG, ROLES, ROLES_FILE
from lmjax.tokenizers.huggingface import HuggingFaceTokenizer
from lmjax.tokenizers.published import DEFINITION, MODELS, NoTokenizer, read_published
from lmjax.tokenizers.sentence_piece import SentencePieceTokenizer
from lmjax.tokenizers.special import sentinel_names

T5_SENTINELS = 100


def load_tokenizer_files(folder: pathlib.Path, hf_config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer beside a model, its special ids found by the roles the files give them.

    Args:
      folder: of the model.
      hf_config: its config.json, for ids that the tokenizer's files do not tell.

    Raises:
      ValueError: there is none, or none of a known kind.
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
    """The tokenizer with the roles that only the model's configuration names, by ids."""
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
    """T5's model ends before the sentinels, whose ids go down from the last."""
    extra = read_json(folder / CONFIG).get("extra_ids") if (folder / CONFIG).exists() else None
    names = sentinel_names(T5_SENTINELS if extra is None else extra)
    last = plain.vocabulary.size + len(names) - 1
    sentinels = {name: last - index for index, name in enumerate(names)}
    model = plain.files()[MODELS[0]]
    return SentencePieceTokenizer(model, {**plain.special_tokens, **sentinels}, role_names=plain.role_names)


def _first(value: Any) -> int | None:
    return (value[0] if value else None) if isinstance(value, list) else value


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


def save_tokenizer_files(folder: pathlib.Path, tokenizer: Tokenizer, *, max_length: int) -> str | None:
    """Writes what ``AutoTokenizer`` of transformers loads, with the same ids.

    Args:
      folder: the exported model's.
      tokenizer: ours.
      max_length: tokens the model reads.

    Returns:
      What could not be written and why, or None.
    """
    definition, problem = _definition_of(tokenizer)
    if isinstance(tokenizer, SentencePieceTokenizer):
        (folder / MODELS[0]).write_bytes(tokenizer.files()[MODELS[0]])
    if definition is not None:
        (folder / DEFINITION).write_bytes(definition)
    name_of = {token_id: name for name, token_id in tokenizer.special_tokens.items()}
    roles = {role: getattr(tokenizer.vocabulary, f"{role}_id") for role in ROLES}
    named = {f"{role}_token": name_of[token_id] for role, token_id in roles.items() if token_id is not None}
    others = [name for name in tokenizer.special_tokens if name not in named.values()]
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        **named,
        "additional_special_tokens": others,
    }
    for file, content in ((CONFIG, values), (ROLES_FILE, named)):
        (folder / file).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return problem


def _definition_of(tokenizer: Tokenizer) -> tuple[bytes | None, str | None]:
    """The ``tokenizer.json``, and what it cannot say."""
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return _with_added(tokenizer.files()[DEFINITION], tokenizer.special_tokens)
    if isinstance(tokenizer, BytePairTokenizer):
        return tokenizer.files()[DEFINITION], None
    if isinstance(tokenizer, SentencePieceTokenizer):
        definition = as_huggingface(tokenizer)
        lost = f"written as {MODELS[0]} only: its normalisation has no counterpart in {DEFINITION}"
        return definition, None if definition else lost
    return _bytes_definition(tokenizer), None


def _with_added(definition: bytes, special_tokens: Mapping[str, int]) -> tuple[bytes, str | None]:
    """The definition with the special tokens that follow its ids."""
    library = tokenizers.Tokenizer.from_str(definition.decode())
    absent = {name: i for name, i in special_tokens.items() if library.token_to_id(name) is None}
    if not absent:
        return definition, None
    _add(library, absent)
    if all(library.token_to_id(name) == i for name, i in absent.items()):
        return library.to_str().encode(), None
    # The library counts on from the number of tokens, not from the last id.
    return definition, f"written without {' '.join(absent)}: {DEFINITION} cannot give them their ids"


def _bytes_definition(tokenizer: Tokenizer) -> bytes:
    """Bytes as a byte-level BPE without merges."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=byte_alphabet(), merges=[]))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    _add(library, tokenizer.special_tokens)
    return library.to_str().encode()


def _add(library: tokenizers.Tokenizer, special_tokens: Mapping[str, int]) -> None:
    names = sorted(special_tokens, key=special_tokens.__getitem__)
    library.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in names])
