"""Documents that contain evaluation texts are dropped."""

import collections
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from lmjax.curate.rule import Judge, JudgingRule
from lmjax.curate.words import make_words
from lmjax.data.config import DataConfig
from lmjax.data.prepare.documents import texts
from lmjax.data.prepare.sources import find_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decontaminate(JudgingRule):
    """Drops documents that share a sequence of words with an evaluation text (Brown et al. 2020, appendix C)."""

    path: str
    """The evaluation texts: a file, a folder or a glob of any format that is read."""
    text_field: str = "text"
    """Records: the field with the evaluation text."""
    template: str | None = None
    """Records, in place of text_field: a text with fields in braces, such as "{question} {answer}"."""
    words: int = 13
    """The length of a sequence that counts as contamination."""
    shortest: int = 8
    """An evaluation text with fewer words than a sequence is looked for as a whole, down to this number of words."""

    def __post_init__(self):
        if not 1 <= self.shortest <= self.words:
            raise ValueError(f"Decontaminate.shortest={self.shortest}: must be from 1 to words={self.words}")

    def judge(self) -> Judge:
        """Returns a judge that knows all sequences of the evaluation texts.

        Raises:
          ValueError: the evaluation texts cannot be read, or all are too short.
        """
        words_of, known = make_words(), _sequences(self)

        def judge(document: Any) -> str | None:
            words = words_of(document.text)
            for length, sequences in known.items():
                if not sequences.isdisjoint(_of_length(words, length)):
                    return f"{length} words of an evaluation text"
            return None

        return judge

    def files(self) -> tuple[str, ...]:
        """Returns the files of the evaluation texts."""
        return tuple(file.path for file in find_files(self._data))

    @property
    def _data(self) -> DataConfig:
        return DataConfig(path=self.path, text_field=self.text_field, template=self.template, valid_fraction=0.0)


def _of_length(words: list[str], length: int) -> Iterator[str]:
    return (" ".join(words[start : start + length]) for start in range(len(words) - length + 1))


@functools.lru_cache(maxsize=4)
def _sequences(rule: Decontaminate) -> dict[int, set[str]]:
    """Returns the sequences to look for, by their number of words."""
    words_of = make_words()
    known: dict[int, set[str]] = collections.defaultdict(set)
    for text in texts(rule._data):
        words = words_of(text)
        length = min(len(words), rule.words)
        if length >= rule.shortest:
            known[length].update(_of_length(words, length))
    if not known:
        raise ValueError(
            f"Decontaminate.path={rule.path!r}: no text has {rule.shortest} words: lower Decontaminate.shortest"
        )
    return dict(known)
