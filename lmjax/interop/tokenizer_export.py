"""Writes our tokenizers in the form that ``AutoTokenizer`` of transformers loads, with the same ids."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import processors

from lmjax.atomic_files import write_file, write_json
from lmjax.interop.published import Published
from lmjax.interop.sentencepiece_json import as_huggingface
from lmjax.interop.tokenizer_files import begins_with_bos
from lmjax.tokenizers import Tokenizer
from lmjax.tokenizers.bpe import BytePairTokenizer, byte_alphabet
from lmjax.tokenizers.declared import CONFIG, ROLES, ROLES_FILE
from lmjax.tokenizers.huggingface import HuggingFaceTokenizer
from lmjax.tokenizers.published import DEFINITION, MODELS
from lmjax.tokenizers.ranks import RankTokenizer
from lmjax.tokenizers.sentence_piece import SentencePieceTokenizer

# Keys of a published tokenizer_config.json that do not depend on how the tokenizer is written.
_KEPT = ("chat_template", "clean_up_tokenization_spaces", "model_input_names", "padding_side", "truncation_side")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Marks:
    """The ids of the special tokens that stood around each text in the model's training.

    Attributes:
      before: the first token; None where there is none.
      after: the last token; where there are two texts, it follows each of them. None where there is none.
    """

    before: int | None = None
    after: int | None = None


def save_tokenizer_files(
    folder: pathlib.Path,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    marks: Marks | None = None,
    published: Published | None = None,
    model_type: str | None = None,
) -> str | None:
    """Writes files that ``AutoTokenizer`` of transformers loads, with the same ids.

    The files of a published tokenizer are copied unchanged, so that it still does everything it did.

    Args:
      folder: the folder of the exported model.
      tokenizer: our tokenizer.
      max_length: the most tokens that the model reads.
      marks: the special tokens around texts in the run's training; the written tokenizer adds them to a text.
      published: the published folder that the run was made of; None where there is none.
      model_type: the ``model_type`` of the exported model.

    Returns:
      A note on what could not be written and why, or on what the user should know; None when there is nothing to say.
    """
    marks = marks or Marks()
    if published is not None and _gives_back(published, tokenizer, marks, model_type):
        published.copy_tokenizer(folder)
        begins = marks.before is None and begins_with_bos(published.folder, tokenizer)
        return "it begins each text as the published one does; this run's documents did not" if begins else None
    definition, problem = _definition_of(tokenizer)
    if isinstance(tokenizer, SentencePieceTokenizer):
        write_file(folder / MODELS[0], tokenizer.files()[MODELS[0]])
    said = _added_tokens(tokenizer)
    is_plain = True
    if definition is not None:
        marked, is_plain = _with_marks(definition, tokenizer, marks)
        write_file(folder / DEFINITION, marked)
        said = {}
    if is_plain:
        said |= _mark_flags(tokenizer, marks)
    named = {f"{role}_token": name for role in ROLES if (name := _named(tokenizer, role)) is not None}
    others = [name for name in _ordered(tokenizer) if name not in named.values()]
    kept = {} if published is None else {k: v for k, v in published.tokenizer_config.items() if k in _KEPT}
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        **said,
        **kept,
        **named,
        "additional_special_tokens": others,
    }
    for file, content in ((CONFIG, values), (ROLES_FILE, named)):
        write_json(folder / file, content, indent=2, ensure_ascii=False)
    if published is not None:
        published.copy_chat_template(folder)
    return problem


def _added_tokens(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the ids of special tokens, with which transformers can convert a SentencePiece model by itself."""
    entries = {name: {"content": name, "special": True, "normalized": False} for name in tokenizer.special_tokens}
    return {"added_tokens_decoder": {str(i): entries[name] for name, i in tokenizer.special_tokens.items()}}


def _mark_flags(tokenizer: Tokenizer, marks: Marks) -> dict[str, bool]:
    """Returns the settings from which newer versions of transformers build the template of special tokens again.

    Returns no settings where these versions would then lose other tokens.
    """
    known = tokenizer.vocabulary
    if marks.before not in (None, known.bos_id) or marks.after not in (None, known.eos_id):
        return {}
    return {"add_bos_token": marks.before is not None, "add_eos_token": marks.after is not None}


def _gives_back(published: Published, tokenizer: Tokenizer, marks: Marks, model_type: str | None) -> bool:
    """Returns whether the published files describe the run's tokenizer completely."""
    if not published.has_tokenizer:
        return False
    # A tokenizer that names no class is read with the class of its model's family.
    if "tokenizer_class" not in published.tokenizer_config and published.config.get("model_type") != model_type:
        return False
    bos_id = tokenizer.vocabulary.bos_id
    return marks.before is None or marks.before != bos_id or begins_with_bos(published.folder, tokenizer)


def _named(tokenizer: Tokenizer, role: str) -> str | None:
    token_id = getattr(tokenizer.vocabulary, f"{role}_id")
    return next((name for name, i in tokenizer.special_tokens.items() if i == token_id), None)


def _ordered(tokenizer: Tokenizer) -> list[str]:
    """Returns the names of special tokens.

    The sentinels come last, in the order of their numbers whatever their ids; the others are in the order of their ids.
    """
    sentinels = tokenizer.vocabulary.sentinel_ids
    tokens = sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    plain = [name for name, token_id in tokens if token_id not in sentinels]
    name_of = {token_id: name for name, token_id in tokens}
    return [*plain, *(name_of[token_id] for token_id in sentinels)]


def _with_marks(definition: bytes, tokenizer: Tokenizer, marks: Marks) -> tuple[bytes, bool]:
    """Returns the definition with a template that puts the marks around texts, and a flag.

    The flag says whether the definition itself added no special tokens.
    """
    library = tokenizers.Tokenizer.from_str(definition.decode())
    own = library.post_processor
    plain = own is None or own.num_special_tokens_to_add(False) == 0
    ids = library.encode("a").ids
    name_of = {token_id: name for name, token_id in tokenizer.special_tokens.items()}
    # The definition's own template may add these tokens already.
    before = None if marks.before is None or ids[:1] == [marks.before] else name_of[marks.before]
    after = None if marks.after is None or ids[-1:] == [marks.after] else name_of[marks.after]
    if before is None and after is None:
        return definition, plain
    first, last = [before] if before else [], [after] if after else []
    texts = [["$A", *last], [*(f"{name}:1" for name in first), "$B:1", *(f"{name}:1" for name in last)]]
    if before and after:
        # BERT does it like this: there is one first token, and the last token follows each text.
        texts[1] = texts[1][1:]
    template = processors.TemplateProcessing(
        single=[*first, *texts[0]],
        pair=[*first, *texts[0], *texts[1]],
        special_tokens=[(name, library.token_to_id(name)) for name in {*first, *last}],
    )
    library.post_processor = template if own is None else processors.Sequence([own, template])
    return library.to_str().encode(), plain


def _definition_of(tokenizer: Tokenizer) -> tuple[bytes | None, str | None]:
    """Returns the content of ``tokenizer.json``, and a note on what it cannot express; either may be None."""
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return _with_added(tokenizer.files()[DEFINITION], tokenizer.special_tokens)
    if isinstance(tokenizer, BytePairTokenizer):
        return tokenizer.files()[DEFINITION], None
    if isinstance(tokenizer, SentencePieceTokenizer):
        definition = as_huggingface(tokenizer)
        lost = f"written as {MODELS[0]} only: its normalisation has no counterpart in {DEFINITION}"
        return definition, None if definition else lost
    if isinstance(tokenizer, RankTokenizer):
        return None, f"not written: {DEFINITION} needs merges, and this tokenizer has ranks of tokens"
    return _bytes_definition(tokenizer), None


def _with_added(definition: bytes, special_tokens: Mapping[str, int]) -> tuple[bytes, str | None]:
    """Returns the definition with our special tokens added, and a note if they could not be; None if they could."""
    library = tokenizers.Tokenizer.from_str(definition.decode())
    absent = {name: i for name, i in special_tokens.items() if library.token_to_id(name) is None}
    if not absent:
        return definition, None
    _add(library, _by_id(absent))
    if all(library.token_to_id(name) == i for name, i in absent.items()):
        return library.to_str().encode(), None
    # The library gives new tokens the ids from the number of tokens on, not from the last id on.
    return definition, f"written without {' '.join(absent)}: {DEFINITION} cannot give them their ids"


def _bytes_definition(tokenizer: Tokenizer) -> bytes:
    """Returns the definition of our byte tokenizer, as a byte-level BPE without merges."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=byte_alphabet(), merges=[]))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    _add(library, _by_id(tokenizer.special_tokens))
    return library.to_str().encode()


def _by_id(special_tokens: Mapping[str, int]) -> list[str]:
    return sorted(special_tokens, key=special_tokens.__getitem__)


def _add(library: tokenizers.Tokenizer, names: Sequence[str]) -> None:
    library.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in names])
