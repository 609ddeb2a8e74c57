"""The chat template of a published model: how a conversation is written as the text that the model continues.

A template is a program in the language of Jinja that comes with a model, so it runs in Jinja's sandbox.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from lmjax.interop.hf_config import read_json
from lmjax.interop.published import GENERATION
from lmjax.runs.opened import Opened
from lmjax.runs.prompts import ids_with_names
from lmjax.tokenizers import Tokenizer
from lmjax.train.published import PUBLISHED

Message = Mapping[str, str]
"""A message: its ``role`` (``system``, ``user`` or ``assistant``) and its ``content``."""

_PRIVATE = range(0xE000, 0xF8FF)
"""Code points that mean nothing to anybody, to stand for others while a template runs."""


class ChatTemplate:
    """A chat template."""

    def __init__(self, source: str, *, where: str, variables: Mapping[str, str]):
        """Compiles the template.

        Args:
          source: the template.
          where: the file it comes from, for messages.
          variables: further names that it may use, such as ``bos_token``.

        Raises:
          ValueError: it is not a template, or Jinja is not installed.
        """
        try:
            import jinja2
            import jinja2.sandbox
        except ImportError:
            raise ValueError(f"{where} is a chat template, which needs Jinja: pip install 'lmjax[chat]'") from None

        def refuse(message: str) -> None:
            raise jinja2.TemplateError(message)

        self._where, self._variables, self._error = where, dict(variables), jinja2.TemplateError
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = refuse
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ValueError(f"{where}: the chat template is not Jinja ({error}): correct it") from None

    def render(self, messages: Sequence[Message]) -> str:
        """Returns a conversation as text, up to where the assistant's next message begins.

        Raises:
          ValueError: the template refuses it, or fails.
        """
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._variables)
        except (self._error, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise ValueError(f"{self._where}: the chat template refuses this conversation: {error}") from None

    def ids(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """Returns a conversation as token ids. Special tokens come from the template alone, never from a message.

        While the template runs, another character stands for the first one of each name of a special token in a
        message. It is put back once the text has been cut at the names that the template wrote.

        Raises:
          ValueError: as :meth:`render`.
        """
        names = sorted(tokenizer.special_tokens, key=len, reverse=True)
        used = set().union(*(message["content"] for message in messages))
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

        quoted = [{**message, "content": quote(message["content"])} for message in messages]
        return ids_with_names(tokenizer, self.render(quoted), unquote=unquote)


def find_template(run: Opened) -> ChatTemplate | None:
    """Returns the chat template that came with the model of a run; None if there is none.

    Raises:
      ValueError: a file cannot be read, or holds no template.
    """
    for folder in (run.folder / PUBLISHED, run.folder):
        config_path, template_path = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        config = _content(config_path)
        variables = {name: _name(config.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
        known = {name: value for name, value in variables.items() if value is not None}
        if template_path.exists():
            return ChatTemplate(template_path.read_text("utf-8"), where=str(template_path), variables=known)
        source = config.get("chat_template")
        if isinstance(source, list):
            source = next((entry.get("template") for entry in source if entry.get("name") == "default"), None)
        if isinstance(source, str):
            return ChatTemplate(source, where=str(config_path), variables=known)
    return None


def end_ids(run: Opened) -> set[int]:
    """Returns the ids that end an answer, by the files that came with the model: there may be several."""
    ids: set[int] = set()
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
