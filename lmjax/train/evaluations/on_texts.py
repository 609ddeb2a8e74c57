"""The base class of evaluations that read text files."""

import dataclasses
from collections.abc import Iterator

from lmjax.train.evaluations.evaluation import Evaluation, Subject
from lmjax.train.evaluations.texts import Text, check_files, read_texts
from lmjax.train.evaluations.windows import check_sizes
from lmjax.train.scored import NothingScored


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnTexts(Evaluation):
    """A measurement on the documents of text files."""

    files: tuple[str, ...]
    """Files, folders or globs, read as `data.path` is."""
    window: int | None = None
    """The most tokens that the model reads at once; train.sequence_length when unset."""
    documents: int = 0
    """Documents to take of each file, from the first on; 0 takes all."""

    def __post_init__(self):
        super().__post_init__()
        if self.window is not None and self.window < 1:
            raise ValueError(f"evaluations: {self.name}: window={self.window}: must be at least 1")
        if self.documents < 0:
            raise ValueError(f"evaluations: {self.name}: documents={self.documents}: must not be negative")

    def window_for(self, subject: Subject) -> int:
        """Returns the number of tokens that the model reads at once.

        Raises:
          ValueError: the model has learned fewer positions, or a file cannot be read.
        """
        window = self.window or subject.sequence_length
        check_sizes(window, window, max_length=subject.max_length)
        check_files(subject.data, self.files)
        return window

    def texts(self, subject: Subject) -> Iterator[Text]:
        """Yields the documents, see :func:`lmjax.train.evaluations.texts.read_texts`."""
        return read_texts(subject.data, self.files, subject.tokenizer, documents=self.documents)

    def nothing_scored(self) -> NothingScored:
        """Returns the error to raise where no token of the files was scored."""
        return NothingScored(f"{', '.join(self.files)}: no token to score: name files with longer texts")
