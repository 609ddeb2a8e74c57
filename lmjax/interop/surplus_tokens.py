"""Removes added tokens for which the model has no embedding, such as Gemma 3's ``<image_soft_token>``."""

import json

from lmjax.interop.tokenizer_files import DEFINITION
from lmjax.tokenizers import Tokenizer
from lmjax.tokenizers.huggingface import HuggingFaceTokenizer


def without_surplus(tokenizer: Tokenizer, rows: int) -> tuple[Tokenizer, list[str]]:
    """Returns the tokenizer without the added tokens whose ids are beyond the model's table, and their names.

    Text that spells such a token is then ordinary text. A tokenizer is returned unchanged if it has no ids beyond the
    table, or if ids of other tokens are beyond it too.

    Args:
      tokenizer: the tokenizer beside the model.
      rows: number of rows of the model's table.
    """
    if tokenizer.vocabulary.size <= rows or not isinstance(tokenizer, HuggingFaceTokenizer):
        return tokenizer, []
    files = tokenizer.files()
    fields = json.loads(files[DEFINITION])
    surplus = [token["content"] for token in fields["added_tokens"] if token["id"] >= rows]
    fields["added_tokens"] = [token for token in fields["added_tokens"] if token["id"] < rows]
    files[DEFINITION] = json.dumps(fields, ensure_ascii=False).encode()
    smaller = HuggingFaceTokenizer(
        files[DEFINITION],
        {name: token_id for name, token_id in tokenizer.special_tokens.items() if name not in surplus},
        role_names={role: name for role, name in tokenizer.role_names.items() if name not in surplus},
    )
    return (smaller, surplus) if smaller.vocabulary.size <= rows else (tokenizer, [])
