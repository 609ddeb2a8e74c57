"""Reads tokenizers that others published: it chooses the file of a folder to read, and refuses formats it cannot read.

It reads a Hugging Face ``tokenizer.json``, a SentencePiece model with the tokens that files beside it add, tiktoken's
ranks, Mistral's ``tekken.json`` and, where the files beside them say how text is cut, GPT-2's ``vocab.json`` with
``merges.txt`` and BERT's ``vocab.txt``. A format whose ids are another program's (fairseq's) is refused by name.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmjax.naming import naming
from lmjax.tokenizers.base import Tokenizer
from lmjax.tokenizers.declared import ADDED, CONFIG, ROLES_FILE, Declared, read_declared, read_object

DEFINITION = "tokenizer.json"
MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.model")

# These classes use GPT-2's regular expression and byte alphabet; other classes with the same two files do not.
_GPT2_CLASSES = ("GPT2", "Roberta", "Bart", "Longformer", "LED", "GPTNeoX", "Blenderbot")
_BERT_CLASSES = ("Bert", "DistilBert", "Electra", "MobileBert", "MPNet")
_SAVE_DEFINITION = "AutoTokenizer of transformers writes a tokenizer.json, which is read (save_pretrained)"
_PARTS = ("vocab.json", "merges.txt", "vocab.txt", CONFIG, ROLES_FILE, ADDED)
_READ = "a Hugging Face tokenizer.json, a SentencePiece .model, tiktoken's ranks, a tekken.json, or a folder with one"


class NoTokenizer(ValueError):  # noqa: N818
    """The error for a folder that has no file of a tokenizer."""


def read_published(path: pathlib.Path, *, special_names: Sequence[str], pattern: str | None = None) -> Tokenizer:
    """Returns the tokenizer of a file or a folder that lmjax did not write.

    Args:
      path: the file, or the folder.
      special_names: special tokens it should have; those it lacks get ids after its last id.
      pattern: how text is cut before tiktoken's ranks, see :mod:`lmjax.tokenizers.ranks`.

      Raises:
        ValueError: there is no tokenizer, it is damaged, or its format is not supported.
    """
    if path.is_dir():
        return _from_folder(path, special_names, pattern)
    return _from_file(path, special_names, Declared(), pattern)


def _from_folder(folder: pathlib.Path, names: Sequence[str], pattern: str | None) -> Tokenizer:
    declared = read_declared(folder)
    for name in (DEFINITION, *MODELS):
        if (folder / name).is_file():
            return _from_file(folder / name, names, declared, pattern)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        with naming(folder / "vocab.json"):
            return _gpt2(folder, names, declared)
    if (folder / "vocab.txt").is_file():
        with naming(folder / "vocab.txt"):
            return _bert(folder, names, declared)
    for file in sorted(folder.iterdir()):
        if file.name == "tekken.json" or file.suffix in (".tiktoken", ".bpe") or file.name.endswith(".bpe.model"):
            return _from_file(file, names, declared, pattern)
    raise NoTokenizer(
        f"{folder} has no tokenizer: there is neither {DEFINITION} nor {' nor '.join(MODELS)} nor vocab.json with "
        f"merges.txt nor vocab.txt: name a folder of ours or {_READ}"
    )


def _from_file(path: pathlib.Path, names: Sequence[str], declared: Declared, pattern: str | None) -> Tokenizer:
    content = path.read_bytes()
    if path.name.endswith(".bpe.model") or path.suffix == ".bpe":
        raise ValueError(
            f"{path}: a fairseq tokenizer (XLM-RoBERTa, mBART): its ids are not the SentencePiece model's; "
            f"{_SAVE_DEFINITION}"
        )
    if path.suffix == ".tiktoken" or _is_ranks(content):
        from lmjax.tokenizers.ranks import RankTokenizer

        with naming(path):
            return RankTokenizer.from_ranks(content, name=path.name, special_names=names, pattern=pattern)
    if _is_tekken(path, content):
        from lmjax.tokenizers.ranks import RankTokenizer

        with naming(path):
            return RankTokenizer.from_tekken(content, special_names=names)
    if path.suffix == ".model":
        from lmjax.tokenizers.sentence_piece import SentencePieceTokenizer

        with naming(path):
            return SentencePieceTokenizer.from_model(content, special_names=names, declared=declared)
    if path.name in _PARTS:
        raise ValueError(f"{path}: one of several files of a tokenizer: name their folder, or {_READ}")
    if path.suffix == ".json":
        with naming(path):
            return _from_definition(content, names, declared)
    raise ValueError(f"tokenizer.path={path}: it is neither a tokenizer's folder of ours nor {_READ}")


def _from_definition(content: bytes, names: Sequence[str], declared: Declared) -> Tokenizer:
    from lmjax.tokenizers.huggingface import HuggingFaceTokenizer

    return HuggingFaceTokenizer.from_definition(content, special_names=names, role_names=declared.role_names)


def _is_ranks(content: bytes) -> bool:
    """Returns whether these are tiktoken's ranks: lines of a token in base 64 and its rank.

    Llama 3's ``tokenizer.model`` is such a file.
    """
    words = content[:4096].split(b"\n")[0].split()
    return len(words) == 2 and words[1].isdigit() and len(words[0]) % 4 == 0


def _is_tekken(path: pathlib.Path, content: bytes) -> bool:
    return path.name == "tekken.json" or (b'"token_bytes"' in content[:10_000] and b'"rank"' in content[:10_000])


def _tokenizer_class(folder: pathlib.Path) -> str:
    found = {}
    for file in (CONFIG, "config.json"):
        if (folder / file).is_file():
            found[file] = read_object(folder / file)
    named = found.get(CONFIG, {}).get("tokenizer_class") or found.get("config.json", {}).get("tokenizer_class")
    return str(named or found.get("config.json", {}).get("model_type") or "")


def _is_of(folder: pathlib.Path, classes: Sequence[str]) -> bool:
    name = _tokenizer_class(folder).removesuffix("Fast").removesuffix("Tokenizer").lower()
    return name in {one.lower() for one in classes} or (name == "" and not (folder / "config.json").is_file())


def _gpt2(folder: pathlib.Path, names: Sequence[str], declared: Declared) -> Tokenizer:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors

    from lmjax.tokenizers.bpe import byte_alphabet

    vocab = read_object(folder / "vocab.json")
    lacking = sum(character not in vocab for character in byte_alphabet())
    if lacking or any(token.endswith("</w>") for token in vocab) or not _is_of(folder, _GPT2_CLASSES):
        bytes_there = f"it lacks {lacking} of GPT-2's 256 bytes" if lacking else "its words are marked otherwise"
        kind = _tokenizer_class(folder) or bytes_there
        raise ValueError(
            f"vocab.json and merges.txt do not say how text is cut before them, and this tokenizer is no plain GPT-2's "
            f"({kind}): {_SAVE_DEFINITION}"
        )
    library = _built(lambda: models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    prefix = read_object(folder / CONFIG).get("add_prefix_space") if (folder / CONFIG).is_file() else False
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix is True)
    library.decoder = decoders.ByteLevel()
    if "<s>" in vocab and "</s>" in vocab:
        # RoBERTa and BART put these tokens around a text; GPT-2 has neither.
        ends = ("</s>", library.token_to_id("</s>")), ("<s>", library.token_to_id("<s>"))
        library.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=False)
    return _with_special(tokenizers, library, vocab, names, declared)


def _bert(folder: pathlib.Path, names: Sequence[str], declared: Declared) -> Tokenizer:
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    config = read_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if not isinstance(config.get("do_lower_case"), bool) or not _is_of(folder, _BERT_CLASSES):
        raise ValueError(
            "a WordPiece vocabulary, which does not say whether text is lower-cased before it (tokenizer_config.json "
            "with do_lower_case does): save it with tokenizers' BertWordPieceTokenizer('vocab.txt', lowercase=...)"
            ".save('tokenizer.json'), and use that"
        )
    strip_accents = config.get("strip_accents")
    if not isinstance(strip_accents, bool | None):
        raise ValueError(f"{CONFIG} beside it has strip_accents={strip_accents!r}: must be true, false or null")
    unknown = declared.role_names.get("unk", "[UNK]")
    library = _built(lambda: models.WordPiece.from_file(str(folder / "vocab.txt"), unk_token=unknown))
    library.normalizer = normalizers.BertNormalizer(
        lowercase=config["do_lower_case"],
        strip_accents=strip_accents,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True) is not False,
    )
    library.pre_tokenizer, library.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    vocab = library.get_vocab()
    return _with_special(tokenizers, library, vocab, names, declared)


def _built(model: Callable[[], Any]) -> Any:
    import tokenizers

    try:
        return tokenizers.Tokenizer(model())
    # The library raises a bare Exception for files it cannot read.
    except Exception as error:
        raise ValueError(f"cannot be read ({error}): fetch it again, or use a tokenizer.json") from None


def _with_special(
    tokenizers: Any, library: Any, vocab: Mapping[str, Any], names: Sequence[str], declared: Declared
) -> Tokenizer:
    """Returns the tokenizer with its special tokens: those with a role, and others declared or known by name."""
    from lmjax.tokenizers.special import is_known_name

    known = [name for name in vocab if is_known_name(name)]
    special = [*known, *(name for name in sorted(declared.special) if name in vocab and name not in known)]
    beyond = {name: i for name, i in declared.added.items() if name not in vocab}
    library.add_special_tokens(special)
    for name in sorted(beyond, key=beyond.__getitem__):
        token = tokenizers.AddedToken(name, special=name in declared.special, normalized=False)
        library.add_tokens([token])
        if library.token_to_id(name) != beyond[name]:
            raise ValueError(
                f"{declared.source} gives {name!r} the id {beyond[name]}, which does not follow the others"
            )
    return _from_definition(library.to_str().encode(), names, declared)
