"""Adds tokens of text to a tokenizer; every old id stays the same."""

import json
from collections.abc import Sequence

import tokenizers

from lmjax.tokenizers.base import Tokenizer
from lmjax.tokenizers.bpe import BytePairTokenizer
from lmjax.tokenizers.huggingface import HuggingFaceTokenizer


def extend_tokenizer(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[HuggingFaceTokenizer, dict[int, list[int]]]:
    """Adds tokens to a tokenizer; a text is searched for them before anything else cuts it.

    Args:
      tokenizer: one of our byte-level BPE tokenizers, or a ``tokenizer.json``.
      words: the texts of the new tokens, spaces included (``" myocardial"``).

    Returns:
      The extended tokenizer, which `tokenizers` runs, and for each new id the old ids of its text.

    Raises:
      ValueError: the tokenizer is of another kind, or a word is empty, repeated, or already one token.
    """
    definition = _definition(tokenizer)
    pieces = {word: tokenizer.encode(word, after="").tolist() for word in words}
    if len(pieces) < len(words):
        repeated = sorted({word for word in words if list(words).count(word) > 1})
        raise ValueError(f"new tokens are repeated: {', '.join(map(repr, repeated[:5]))}: name each once")
    if known := [word for word, ids in pieces.items() if len(ids) < 2]:
        raise ValueError(f"{', '.join(map(repr, known[:5]))}: empty, or one token already: leave out")
    extended = tokenizers.Tokenizer.from_str(json.dumps(definition))
    # Special tokens whose ids follow the definition's are added first, in their order, so that they keep their ids.
    own = extended.get_vocab(with_added_tokens=True)
    names = sorted(tokenizer.special_tokens, key=tokenizer.special_tokens.__getitem__)
    extended.add_special_tokens([name for name in names if name not in own])
    extended.add_tokens([tokenizers.AddedToken(word, normalized=False) for word in words])
    ids = extended.get_vocab(with_added_tokens=True)
    moved = [name for name in names if ids[name] != tokenizer.special_tokens[name]]
    first = tokenizer.vocabulary.size
    if moved or sorted(ids[word] for word in words) != list(range(first, first + len(words))):
        raise ValueError(
            f"the tokenizer's ids have gaps, into which new tokens would fall (of {first} ids): this one cannot be "
            f"extended"
        )
    role_names = getattr(tokenizer, "role_names", {})
    made = HuggingFaceTokenizer(extended.to_str().encode(), tokenizer.special_tokens, role_names=role_names)
    return made, {ids[word]: old for word, old in pieces.items()}


def _definition(tokenizer: Tokenizer) -> dict:
    if isinstance(tokenizer, BytePairTokenizer):
        return json.loads(tokenizer.to_huggingface().to_str())
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return json.loads(tokenizer.files()["tokenizer.json"])
    raise ValueError(
        f"a {tokenizer.kind} tokenizer has no place for new tokens: extend a byte-level BPE or a tokenizer.json"
    )
