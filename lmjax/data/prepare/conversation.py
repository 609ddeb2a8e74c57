"""Conversations: a chat template arranges their messages, and the assistant's part has loss weight 1."""

import dataclasses
from collections.abc import Sequence

from lmjax.data.prepare.record import Document
from lmjax.tokenizers.chat import chat_parts
from lmjax.tokenizers.special import names_by_role


def arranged(document: Document, template: str, special_names: Sequence[str]) -> Document:
    """Returns the document with its messages in the order, and with the special tokens, of a chat template.

    Args:
      document: a document; one without messages stays as it is.
      template: see :func:`lmjax.tokenizers.chat.read_chat_template`.
      special_names: names of the special tokens of the tokenizer.

    Raises:
      ValueError: the template does not take the messages.
    """
    if not document.messages:
        return document
    named = names_by_role(special_names)
    try:
        found = chat_parts(template, document.messages, special_names=special_names, special_tokens=named)
    except ValueError as error:
        raise ValueError(f"{document.name}: {error}") from None
    befores, before = [], ""
    for part in found:
        # After a special token a text begins anew, but not as a document does.
        before = "" if part.special else before
        befores.append(before)
        before += part.text
    return dataclasses.replace(
        document,
        parts=tuple((part.text, float(part.is_answer)) for part in found),
        markers=tuple(part.special for part in found),
        befores=tuple(befores),
    )
