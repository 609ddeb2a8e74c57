"""Conversations as text: a chat template turns a list of messages into text, of which some parts are the assistant's.

Templates are those of Hugging Face tokenizers (``chat_template``), which Jinja renders in its sandbox. What a message
says is never read as a special token, whatever it spells; what the template adds is, where it names one.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

ROLES_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""The built-in template: a token of the role before each message, and the end-of-text token after the assistant's."""
ASSISTANT = "assistant"
_MARK = "\uf8ff"
_MARKED = re.compile(f"{_MARK}([0-9]+){_MARK}")


class Message(NamedTuple):
    """One message of a conversation."""

    role: str
    content: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatPart:
    """A stretch of a conversation's text.

    Attributes:
      special: names of the special tokens before the text.
      text: the text, which holds no special token.
      is_answer: whether the assistant writes it: its messages, and the special token that ends them.
    """

    special: tuple[str, ...] = ()
    text: str = ""
    is_answer: bool = False


def read_chat_template(source: str) -> str:
    """Returns a chat template: the built-in one for ``"roles"``, or that of a file or a tokenizer's folder.

    Args:
      source: ``"roles"``, a Jinja file, a ``tokenizer_config.json``, or a folder with one or with
        ``chat_template.jinja``.

    Raises:
      ValueError: there is none.
    """
    if source == "roles":
        return ROLES_TEMPLATE
    path = pathlib.Path(source)
    if path.is_dir():
        path = next(
            (path / name for name in ("chat_template.jinja", "tokenizer_config.json") if (path / name).is_file()), path
        )
    try:
        text = path.read_text(encoding="utf-8")
        template = json.loads(text).get("chat_template") if path.suffix == ".json" else text
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"chat template {source!r} cannot be read ({error}): name a Jinja file or a tokenizer's folder"
        ) from None
    if not isinstance(template, str):
        raise ValueError(f"{path} has no chat_template: name a Jinja file, or use 'roles'")
    return template


def render_chat(
    template: str,
    messages: Iterable[Message],
    *,
    special_tokens: Mapping[str, str | None] | None = None,
    add_generation_prompt: bool = False,
    **variables: Any,
) -> str:
    """Returns the text that a chat template makes of messages.

    Args:
      template: see :func:`read_chat_template`.
      messages: the conversation.
      special_tokens: names of special tokens by role, such as ``{"bos": "<s>", "eos": "</s>"}``.
      add_generation_prompt: whether to add what comes before the assistant's next message.
      variables: further variables of the template, such as ``tools``.

    Raises:
      ValueError: Jinja is not installed, or the template refuses the messages or is damaged.
    """
    try:
        import jinja2
    except ImportError:
        raise ValueError("chat templates need Jinja: pip install 'lmjax[chat]'") from None
    names = {f"{role}_token": name or "" for role, name in (special_tokens or {}).items()}
    try:
        return (
            _environment()
            .from_string(template)
            .render(
                messages=[message._asdict() for message in messages],
                add_generation_prompt=add_generation_prompt,
                **{"bos_token": "", "eos_token": "", **names, **variables},
            )
        )
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"the chat template is not Jinja ({error}): correct it") from None
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ValueError(f"the chat template does not take these messages ({error}): correct one of them") from None


def _environment() -> Any:
    """Returns the environment in which transformers renders templates, as far as templates rely on it."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` around the assistant's text, which is rendered as it is."""

        tags = {"generation"}  # noqa: RUF012 (as Jinja has it)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = raise_exception
    return environment


def chat_parts(
    template: str,
    messages: Sequence[Message],
    *,
    special_names: Iterable[str],
    special_tokens: Mapping[str, str | None] | None = None,
    add_generation_prompt: bool = False,
) -> list[ChatPart]:
    """Returns the text of a conversation in parts; joined with the names of their special tokens they are the text.

    The template is rendered twice, with the messages and with marks in their place, so that what a message says is
    told from what the template adds. A template may remove the whitespace around a message, and change nothing else of
    it.

    Args:
      template: see :func:`read_chat_template`.
      messages: the conversation.
      special_names: names of all special tokens of the tokenizer.
      special_tokens: see :func:`render_chat`.
      add_generation_prompt: see :func:`render_chat`.

    Raises:
      ValueError: as :func:`render_chat`, or the template changes the text of a message.
    """
    options: dict[str, Any] = {"special_tokens": special_tokens, "add_generation_prompt": add_generation_prompt}
    whole = render_chat(template, messages, **options)
    marked = [message._replace(content=f"{_MARK}{n}{_MARK}") for n, message in enumerate(messages)]
    pieces = _MARKED.split(render_chat(template, marked, **options))
    between, numbers = pieces[::2], [int(number) for number in pieces[1::2]]
    for strip in (str, str.strip, str.lstrip, str.rstrip):
        contents = [strip(messages[number].content) if number < len(messages) else "" for number in numbers]
        if "".join(text for pair in zip(between, [*contents, ""], strict=True) for text in pair) == whole:
            break
    else:
        raise ValueError("the chat template changes the text of a message, so its parts cannot be told: use another")
    pattern = re.compile("|".join(map(re.escape, sorted(special_names, key=len, reverse=True))) or "(?!)")
    parts: list[ChatPart] = []
    answered = False
    for text, number, content in zip(between, [*numbers, None], [*contents, ""], strict=True):
        parts += _template_parts(text, pattern, ends_answer=answered)
        if number is not None:
            answered = messages[number].role == ASSISTANT
            parts.append(ChatPart(text=content, is_answer=answered))
    return [part for part in parts if part.text or part.special]


def _template_parts(text: str, pattern: re.Pattern[str], *, ends_answer: bool) -> list[ChatPart]:
    """Returns the parts of what a template adds; the first special token after an answer is the answer's end."""
    parts, place = [], 0
    names: tuple[str, ...] = ()
    for match in pattern.finditer(text):
        before = text[place : match.start()]
        if ends_answer:
            parts.append(ChatPart(text=before, is_answer=True))
            parts.append(ChatPart(special=(match[0],), is_answer=True))
            ends_answer = False
        else:
            if before or names:
                parts.append(ChatPart(special=names, text=before))
            names = (match[0],)
        place = match.end()
    parts.append(ChatPart(special=names, text=text[place:]))
    return parts
