"""Rules about where a page comes from, and in which language it is written."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from lmjax.curate.rule import Judge, JudgingRule, lines_of, load_function, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pages(JudgingRule):
    """Drops pages by their address (``url_field`` of the source), as FineWeb does (datatrove's ``URLFilter``).

    A document without an address stays.
    """

    domains: str | None = None
    """A file with a domain a line (example.com, or shop.example.com for a part of it); their pages are dropped."""
    urls: str | None = None
    """A file with a whole address a line; these pages are dropped."""
    words: str | None = None
    """A file with a word a line; pages that have one of them in their address are dropped."""
    built_in: bool = False
    """Use the lists of adult domains, addresses and words that datatrove brings along, too."""

    def judge(self) -> Judge:
        """Returns datatrove's ``URLFilter``, which asks no network."""
        extract = require("tldextract").TLDExtract(suffix_list_urls=(), cache_dir=None)
        lists = {
            option: lines_of(path, f"Pages.{field}")
            for field, option in (("domains", "extra_domains"), ("urls", "extra_urls"), ("words", "banned_words"))
            if (path := getattr(self, field)) is not None
        }
        filters = require("datatrove.pipeline.filters")
        try:
            step = filters.URLFilter(use_integrated_lists=self.built_in, **lists)
        except ImportError as error:
            raise ValueError(f"Pages: {error} (they are in the extra: pip install 'lmjax[curate]')") from None
        step.tldextractor = extract

        def judge(document: Any) -> str | None:
            if not document.metadata.get("url"):
                return None
            found = step.filter(document)
            return None if found is True else found[1]

        return judge

    def files(self) -> tuple[str, ...]:
        """Returns the lists."""
        return tuple(filter(None, (self.domains, self.urls, self.words)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Language(JudgingRule):
    """Keeps texts in some languages."""

    languages: tuple[str, ...] = ("en",)
    """Their labels, as the model has them."""
    threshold: float = 0.65
    """The smallest score of a language that counts."""
    model: str | None = None
    """A fastText model on this disk, such as lid.176.bin of https://fasttext.cc/docs/en/language-identification.html."""
    function: str | None = None
    """In place of a model: FILE.py:NAME or MODULE:NAME, called with the text; it returns (language, score)."""

    def __post_init__(self):
        if (self.model is None) == (self.function is None):
            raise ValueError(
                "Language: give either model, a fastText model on this disk (lid.176.bin, 126 MB, from "
                "https://fasttext.cc/docs/en/language-identification.html), or function"
            )
        if not self.languages:
            raise ValueError("Language.languages=(): name the languages to keep")

    def judge(self) -> Judge:
        """Returns a judge of the most likely language."""
        identify = self._fasttext(self.model) if self.model is not None else load_function(str(self.function))

        def judge(document: Any) -> str | None:
            language, score = identify(document.text)
            if language in self.languages and score >= self.threshold:
                return None
            return f"language {language}" if language not in self.languages else "language not certain"

        return judge

    def _fasttext(self, path: str) -> Callable[[str], tuple[str, float]]:
        if not pathlib.Path(path).is_file():
            raise ValueError(
                f"Language.model={path!r}: no such file: download lid.176.bin (126 MB) from "
                f"https://fasttext.cc/docs/en/language-identification.html, and give its path"
            )
        # The class that the module's own loader wraps; the loader prints a warning.
        model = require("fasttext").FastText._FastText(path)

        def identify(text: str) -> tuple[str, float]:
            (label,), (score,) = model.predict(text.replace("\n", " "))
            return label.removeprefix("__label__"), float(score)

        return identify

    def files(self) -> tuple[str, ...]:
        """Returns the model, or the file of the function."""
        path = (self.function or "").rpartition(":")[0]
        return tuple(filter(None, (self.model, path if path.endswith(".py") else None)))
