"""What a rule of a curation is: a configuration that makes a judge of documents."""

import abc
import dataclasses
import functools
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from lmjax.choice import Choice

Judge = Callable[[Any], str | None]
"""Returns why a document (``datatrove.data.Document``) is dropped, or None if it stays. It may change the text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule(Choice, home="lmjax.curate"):
    """Base class of the rules; a rule is a dataclass whose fields are its limits."""

    def files(self) -> tuple[str, ...]:
        """Returns the files that the rule reads; a curation begins anew if their content changes."""
        return ()

    @property
    def name(self) -> str:
        """The name in reports."""
        return type(self).__name__


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgingRule(Rule, abc.ABC):
    """Base class of the rules that judge each document by itself."""

    @abc.abstractmethod
    def judge(self) -> Judge:
        """Returns the function that judges documents one by one; each process makes its own.

        Raises:
          ValueError: a package or a file that the rule needs is not there.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlugIn(JudgingRule):
    """A rule of your own, such as a safety word list or a classifier."""

    function: str
    """The function, as FILE.py:NAME or MODULE:NAME. It is called with the text and a dictionary of id, url, source and
    the kept fields, and returns True to keep the document, or the reason to drop it (False gives none), or (text,) to
    replace the text."""

    def judge(self) -> Judge:
        """Returns a judge that asks the function."""
        function = load_function(self.function)

        def judge(document: Any) -> str | None:
            answer = function(document.text, {"id": document.id, **document.metadata})
            if isinstance(answer, tuple) and len(answer) == 1 and isinstance(answer[0], str):
                (document.text,) = answer
                return None
            if isinstance(answer, bool):
                return None if answer else "refused"
            if isinstance(answer, str) and answer:
                return answer
            raise ValueError(f"{self.function} returned {answer!r}: it must return True, False, a reason, or (text,)")

        return judge

    def files(self) -> tuple[str, ...]:
        """Returns the file of the function, unless it is in a module."""
        path = self.function.rpartition(":")[0]
        return (path,) if path.endswith(".py") else ()

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.rpartition(":")[2]


@functools.lru_cache(maxsize=64)
def load_function(name: str) -> Callable[..., Any]:
    """Returns the function that ``FILE.py:NAME`` or ``MODULE:NAME`` names.

    Raises:
      ValueError: there is no such function.
    """
    where, _, function = name.rpartition(":")
    try:
        if where.endswith(".py"):
            spec = importlib.util.spec_from_file_location(f"lmjax_plug_in_{pathlib.Path(where).stem}", where)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        found = getattr(module, function)
    except Exception as error:
        raise ValueError(
            f"function={name!r}: cannot be loaded ({type(error).__name__}: {error}): give FILE.py:NAME or MODULE:NAME"
        ) from None
    if not callable(found):
        raise ValueError(f"function={name!r} is {found!r}, not a function")
    return found


def require(module: str) -> Any:
    """Imports a module of the extra ``curate``.

    Raises:
      ValueError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = (error.name or module).partition(".")[0]
        raise ValueError(f"curation needs {package}: pip install 'lmjax[curate]'") from None


def lines_of(path: str, field: str) -> list[str]:
    """Returns the lines of a list, without blank ones and those that begin with ``#``.

    Raises:
      ValueError: the file cannot be read.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{field}={path!r}: cannot be read ({error}): give a text file with one entry a line"
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
