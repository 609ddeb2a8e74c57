"""Perplexity, accuracy and calibration on the documents of text files, by a sliding window."""

import dataclasses
from collections.abc import Callable, Iterator

from lmjax.models.parameters import Params
from lmjax.objectives.parts.naming_tokens import check_predicts_next
from lmjax.train.evaluations.evaluation import Measure, Reading, Subject
from lmjax.train.evaluations.on_texts import OnTexts
from lmjax.train.evaluations.sums import Sums
from lmjax.train.evaluations.texts import prefix_id, without_first
from lmjax.train.evaluations.token_scores import TokenScorer
from lmjax.train.evaluations.windows import Window, check_sizes, windows

FIRST_NOT_SCORED = (
    "the first token of each text is not scored: documents of this run follow no special token, and the tokenizer has "
    "no beginning-of-text token"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFiles(OnTexts):
    """Exact means over all tokens of documents, each scored once, see :mod:`lmjax.train.evaluations.windows`."""

    stride: int | None = None
    """Tokens that each window after the first one scores, those at its end; half the window when unset."""
    prefix_token: str | None = None
    """The special token before each text, by name; when unset what the run's documents follow, or the tokenizer's
    beginning-of-text token."""
    bins: int = 15
    """Bins of the calibration error."""
    batch_size: int | None = None
    """Rows of a batch, a multiple of the devices that share one; as many as make 16,384 tokens when unset."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("stride", "batch_size", "bins"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"evaluations: {self.name}: {name}={value}: must be at least 1")

    def begin(self, subject: Subject) -> Measure:
        """Checks the model, the sizes and the files, and returns the function that measures.

        Raises:
          ValueError: the model does not read from left to right, the window is longer than its learned positions, or a
            file cannot be read.
        """
        check_predicts_next(subject.learner.objective)
        window = self.window_for(subject)
        stride = self.stride or max(window // 2, 1)
        check_sizes(window, stride)
        prefix = prefix_id(subject.data, subject.tokenizer.vocabulary, named=self.prefix_token)
        scorer = TokenScorer(subject.learner, width=window, batch_size=self.batch_size)

        def measure(params: Params, after_batch: Callable[[], object]) -> Reading:
            sums = Sums(self.bins)

            def cut() -> Iterator[Window]:
                for text in self.texts(subject):
                    scored = text if prefix is not None else without_first(text, subject.tokenizer)
                    sums.add_text(scored)
                    yield from windows(
                        text.tokens_N,
                        prefix=prefix,
                        window=window,
                        stride=stride,
                        scored_N=scored.scored_N,
                        label=text.source,
                    )

            for own, scores in scorer(params, cut(), after_batch=after_batch):
                sums.add(own, scores)
            if not sums.whole.tokens:
                raise self.nothing_scored()
            return sums.reading(notes=(FIRST_NOT_SCORED,) if prefix is None else ())

        return measure
