"""The chat template of a published model: how a conversation is written as the text that the model continues.

A template is a program in the language of Jinja that comes with a model, so it runs in Jinja's sandbox.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from lmjax.interop.hf_config import read_json
from lmjax.interop.published import GENERATION
from lmjax.naming import naming
from lmjax.runs.opened import Opened
from lmjax.tokenizers import Tokenizer
from lmjax.tokenizers.chat import Message, chat_parts, read_chat_template, render_chat
from lmjax.tokenizers.special import names_by_role
from lmjax.train.prompts import ids_with_names
from lmjax.train.published import PUBLISHED

_PRIVATE = range(0xE000, 0xF8FF)
"""Code points that mean nothing to anybody, to stand for others while a template runs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A chat template.

    Attributes:
      source: the template.
      where: where it comes from, for messages.
      special_tokens: the names of special tokens that it may use, by role.
    """

    source: str
    where: str
    special_tokens: Mapping[str, str | None]

    def render(self, messages: Sequence[Message]) -> str:
        """Returns a conversation as text, up to where the assistant's next message begins.

        Raises:
          ValueError: it is not a template, it refuses the conversation, or Jinja is not installed.
        """
        with naming(self.where):
            return render_chat(self.source, messages, special_tokens=self.special_tokens, add_generation_prompt=True)

    def ids(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """Returns a conversation as token ids. Special tokens come from the template alone, never from a message.

        While the template runs, another character stands for the first one of each name of a special token in a
        message. It is put back once the text has been cut at the names that the template wrote.

        Raises:
          ValueError: as :meth:`render`.
        """
        names = sorted(tokenizer.special_tokens, key=len, reverse=True)
        used = set().union(*(message.content for message in messages))
        free = (chr(code) for code in _PRIVATE if chr(code) not in used)
        stands_for = {first: next(free) for first in sorted({name[0] for name in names if name})}

        def quote(text: str) -> str:
            for name in names:
                text = text.replace(name, stands_for[name[0]] + name[1:])
            return text

        def unquote(text: str) -> str:
            for first, other in stands_for.items():
                text = text.replace(other, first)
            return text

        quoted = [message._replace(content=quote(message.content)) for message in messages]
        return ids_with_names(tokenizer, self.render(quoted), unquote=unquote)

    def ends_of_answers(self, tokenizer: Tokenizer) -> set[int]:
        """Returns the ids with which the template ends an answer; none if it cannot be told from the template."""
        talk = (Message("user", "question"), Message("assistant", "answer"))
        names = tokenizer.special_tokens
        try:
            parts = chat_parts(self.source, talk, special_names=names, special_tokens=self.special_tokens)
        except ValueError:
            return set()
        return {names[name] for part in parts if part.is_answer for name in part.special}


def find_template(run: Opened) -> ChatTemplate | None:
    """Returns the chat template that the run was trained with, or that came with its model; None if there is none.

    Raises:
      ValueError: a file cannot be read, or holds no template.
    """
    data = run.config.data
    if data.messages_field is not None:
        return ChatTemplate(
            source=read_chat_template(data.chat_template),
            where=f"data.chat_template={data.chat_template!r}",
            special_tokens=names_by_role(run.tokenizer.special_tokens),
        )
    for folder in (run.folder / PUBLISHED, run.folder):
        config_path, template_path = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        config = _content(config_path)
        names = {role: _name(config.get(f"{role}_token")) for role in ("bos", "eos", "unk", "pad")}
        known = {role: name for role, name in names.items() if name is not None}
        if template_path.exists():
            return ChatTemplate(source=template_path.read_text("utf-8"), where=str(template_path), special_tokens=known)
        source = config.get("chat_template")
        if isinstance(source, list):
            source = next((entry.get("template") for entry in source if entry.get("name") == "default"), None)
        if isinstance(source, str):
            return ChatTemplate(source=source, where=str(config_path), special_tokens=known)
    return None


def end_ids(run: Opened, template: ChatTemplate | None) -> set[int]:
    """Returns the ids that end an answer, by the template and the files that came with the model."""
    ids = set() if template is None else template.ends_of_answers(run.tokenizer)
    for folder in (run.folder / PUBLISHED, run.folder):
        given = _content(folder / GENERATION).get("eos_token_id")
        ids |= {value for value in (given if isinstance(given, list) else [given]) if isinstance(value, int)}
        name = _name(_content(folder / "tokenizer_config.json").get("eos_token"))
        ids |= {run.tokenizer.special_tokens[name]} if name in run.tokenizer.special_tokens else set()
    return ids


def _content(path: pathlib.Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _name(token: Any) -> str | None:
    """The name of a token, which tokenizer_config.json gives as a string or as an object."""
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) else None
