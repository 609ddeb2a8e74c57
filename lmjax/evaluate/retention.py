"""Compares a run before and after continued training: what it gained on new text and retained on old text.

Runs with different tokenizers can be compared only in bits per byte, so that is what is shown. Each run cuts each
text into tokens with its own tokenizer. The share retained is ``before / after``: 1 where nothing was lost, 0.9
where the text costs a ninth more bits than it did.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from rich import box
from rich.table import Table

from lmjax.data.prepare.documents import applicable
from lmjax.runs import Run
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.evaluations.validation import Validation
from lmjax.train.open_corpus import open_corpus
from lmjax.train.plan import subject_of
from lmjax.train.run_folder import TOKENIZER


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Bits per byte of one text under two runs.

    Attributes:
      text: where the text is.
      before: bits per byte under the first run.
      after: bits per byte under the second run.
    """

    text: str
    before: float
    after: float

    @property
    def retained(self) -> float:
        """The share ``before / after``: below 1 the second run knows less of the text, above 1 it knows more."""
        return self.before / self.after


def compare(before: Run, after: Run, texts: Sequence[str], *, folders: Sequence[pathlib.Path]) -> list[Comparison]:
    """Evaluates two runs on all of each text, and returns one comparison for each text.

    Args:
      before: the run that was continued.
      after: the run that came of it.
      texts: each a file, a folder or a glob, as in ``data.path``.
      folders: the folders of the two runs.

    Raises:
      ValueError: a text cannot be read, or an objective has no bits per byte.
    """
    rows = []
    for text in texts:
        bits = [_bits_per_byte(run, text, folder) for run, folder in zip((before, after), folders, strict=True)]
        rows.append(Comparison(text=text, before=bits[0], after=bits[1]))
    return rows


def _bits_per_byte(run: Run, text: str, folder: pathlib.Path) -> float:
    data = run.config.data.single(path=text, prepared=None, valid_fraction=0.0)
    # The run's own text may have been of another kind; settings that do not apply to this text are left out.
    data = applicable(data)
    # In a Hugging Face folder the tokenizer's files lie directly in the folder.
    tokenizer = folder / TOKENIZER
    corpus = open_corpus(data, TokenizerConfig(path=str(tokenizer if tokenizer.exists() else folder)))
    measure = Validation(name="text", split="train").begin(
        subject_of(run.config, run.learner, corpus.tokenizer, corpus)
    )
    reading = measure(run.params, lambda: None)
    if "bits_per_byte" not in reading.numbers:
        why = " ".join(reading.notes) or (
            f"{type(run.config.objective).__name__} has no bits per byte to compare: use runs that predict tokens"
        )
        raise ValueError(f"{folder}: {text}: {why}")
    return reading.numbers["bits_per_byte"]


def table(comparisons: Sequence[Comparison]) -> Table:
    """Returns a table of the comparisons, to be printed."""
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows.add_column("text")
    for name in ("bits per byte before", "after", "change", "retained"):
        rows.add_column(name, justify="right")
    for one in comparisons:
        change = one.after / one.before - 1
        rows.add_row(one.text, f"{one.before:.4f}", f"{one.after:.4f}", f"{change:+.1%}", f"{one.retained:.3f}")
    return rows
