"""The rules of Gopher, C4 and FineWeb for the quality of pages, as datatrove has them.

Words are those of spaCy's rules for the language (``spacy.blank``), which need no download.
"""

import abc
import dataclasses
import functools
from typing import Any

from lmjax.curate.rule import Judge, JudgingRule, require


def _judge_of(step: Any) -> Judge:
    """Returns the judge that a filter of datatrove is."""

    def judge(document: Any) -> str | None:
        found = step.filter(document)
        kept, reason = found if isinstance(found, tuple) else (found, "refused")
        return None if kept else reason

    return judge


@functools.cache
def _check_language(language: str) -> None:
    require("spacy")
    load = require("datatrove.utils.word_tokenizers").load_word_tokenizer
    try:
        load(language).word_tokenize("a word")
    except Exception as error:
        raise ValueError(
            f"language={language!r}: its words cannot be told apart ({type(error).__name__}: {error}): give a code of "
            f"ISO 639-3, such as eng or deu, and install the package it needs"
        ) from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Quality(JudgingRule, abc.ABC):
    language: str = "eng"
    """The language of the texts, by its code in ISO 639-3."""

    def _filter(self, name: str, **limits: Any) -> Judge:
        _check_language(self.language)
        filters = require("datatrove.pipeline.filters")
        return _judge_of(getattr(filters, name)(language=self.language, **limits))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GopherQuality(_Quality):
    """Number and length of words, symbols, bullets, ellipses, letters, stop words (Rae et al. 2021, table A1)."""

    min_words: int = 50
    """The fewest words of a document, punctuation aside."""
    max_words: int = 100_000
    """The most words of a document."""
    mean_word_length: tuple[float, float] = (3.0, 10.0)
    """The bounds of the mean length of words, in characters."""
    max_symbols: float = 0.1
    """The most hashes, and the most ellipses, for each word."""
    max_bullet_lines: float = 0.9
    """The largest share of lines that begin with a bullet."""
    max_ellipsis_lines: float = 0.3
    """The largest share of lines that end with an ellipsis."""
    min_alphabetic: float = 0.8
    """The smallest share of words with a letter in them."""
    min_stop_words: int = 2
    """The fewest different stop words."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """The stop words, which belong to the language."""

    def judge(self) -> Judge:
        """Returns datatrove's ``GopherQualityFilter``."""
        shortest, longest = self.mean_word_length
        return self._filter(
            "GopherQualityFilter",
            min_doc_words=self.min_words,
            max_doc_words=self.max_words,
            min_avg_word_length=shortest,
            max_avg_word_length=longest,
            max_symbol_word_ratio=self.max_symbols,
            max_bullet_lines_ratio=self.max_bullet_lines,
            max_ellipsis_lines_ratio=self.max_ellipsis_lines,
            max_non_alpha_words_ratio=self.min_alphabetic,
            min_stop_words=self.min_stop_words,
            stop_words=list(self.stop_words),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GopherRepetition(_Quality):
    """Lines, paragraphs and sequences of words that a document repeats (Rae et al. 2021, table A1)."""

    lines: float = 0.3
    """The largest share of lines that repeat an earlier one."""
    paragraphs: float = 0.3
    """The largest share of paragraphs that repeat an earlier one."""
    line_characters: float = 0.2
    """The largest share of characters in such lines."""
    paragraph_characters: float = 0.2
    """The largest share of characters in such paragraphs."""
    top_sequences: tuple[tuple[int, float], ...] = ((2, 0.2), (3, 0.18), (4, 0.16))
    """Pairs of a number of words and the largest share of characters in the most frequent sequence of so many."""
    repeated_sequences: tuple[tuple[int, float], ...] = (
        (5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10),
    )  # fmt: skip
    """Pairs of a number of words and the largest share of characters in sequences of so many that occurred before."""

    def judge(self) -> Judge:
        """Returns datatrove's ``GopherRepetitionFilter``."""
        return self._filter(
            "GopherRepetitionFilter",
            dup_line_frac=self.lines,
            dup_para_frac=self.paragraphs,
            dup_line_char_frac=self.line_characters,
            dup_para_char_frac=self.paragraph_characters,
            top_n_grams=self.top_sequences,
            dup_n_grams=self.repeated_sequences,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class C4Quality(_Quality):
    """Removes lines without a sentence's end, and drops pages with code, placeholder text or few sentences.

    The rules of C4 (Raffel et al. 2020, section 2.2).
    """

    min_sentences: int = 5
    """The fewest sentences of a document; -1 for no limit."""
    min_words_in_line: int = 3
    """Lines with fewer words are removed; -1 for no limit."""
    max_word_length: int = 1000
    """Lines with a longer word are removed; -1 for no limit."""
    terminal_punctuation: bool = True
    """Remove lines that do not end as sentences do."""
    curly_brackets: bool = True
    """Drop documents with a curly bracket, which are mostly code."""
    lorem_ipsum: bool = True
    """Drop documents with the placeholder text."""
    javascript: bool = True
    """Remove lines that mention JavaScript."""
    policies: bool = True
    """Remove lines about cookies, privacy and terms of use."""
    citations: bool = True
    """Remove the marks of citations, such as [1]."""

    def judge(self) -> Judge:
        """Returns datatrove's ``C4QualityFilter``."""
        return self._filter(
            "C4QualityFilter",
            min_num_sentences=self.min_sentences,
            min_words_per_line=self.min_words_in_line,
            max_word_length=self.max_word_length,
            filter_no_terminal_punct=self.terminal_punctuation,
            filter_curly_bracket=self.curly_brackets,
            filter_lorem_ipsum=self.lorem_ipsum,
            filter_javascript=self.javascript,
            filter_policy=self.policies,
            remove_citations=self.citations,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineWebQuality(_Quality):
    """Drops lists, tables and repeated lines (Penedo et al. 2024, *The FineWeb Datasets*, section 3.6)."""

    min_punctuated_lines: float = 0.12
    """The smallest share of lines that end with punctuation."""
    max_short_lines: float = 0.67
    """The largest share of short lines."""
    short_line: int = 30
    """The length of a short line, in characters."""
    max_repeated_characters: float = 0.01
    """The largest share of characters in lines that repeat an earlier one."""
    max_line_ends: float = 0.3
    """The most line ends for each word."""

    def judge(self) -> Judge:
        """Returns datatrove's ``FineWebQualityFilter``."""
        return self._filter(
            "FineWebQualityFilter",
            line_punct_thr=self.min_punctuated_lines,
            short_line_thr=self.max_short_lines,
            short_line_length=self.short_line,
            char_duplicates_ratio=self.max_repeated_characters,
            new_line_ratio=self.max_line_ends,
        )
