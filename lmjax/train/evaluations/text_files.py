"""Perplexity, accuracy and calibration on the documents of text files, by a sliding window."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from lmjax.models.parameters import Params
from lmjax.objectives.parts.naming_tokens import check_predicts_next
from lmjax.train.evaluations.calibration import Reliability
from lmjax.train.evaluations.evaluation import Evaluation, Measure, Reading, Subject
from lmjax.train.evaluations.texts import Text, check_files, prefix_id, read_texts, without_first
from lmjax.train.evaluations.token_scores import TokenScorer, TokenScores
from lmjax.train.evaluations.windows import Window, check_sizes, windows
from lmjax.train.scored import NothingScored

FIRST_BUCKET = 16
"""The number of places in the first bucket; each further one has as many as all before it."""

FIRST_NOT_SCORED = (
    "the first token of each text is not scored: documents of this run follow no special token, and the tokenizer has "
    "no beginning-of-text token"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFiles(Evaluation):
    """Exact means over all tokens of documents, each scored once, see :mod:`lmjax.train.evaluations.windows`."""

    files: tuple[str, ...]
    """Files, folders or globs, read as `data.path` is."""
    window: int | None = None
    """Tokens the model reads at once; train.sequence_length when unset."""
    stride: int | None = None
    """Tokens a window after the first one scores, those at its end; half the window when unset."""
    documents: int = 0
    """Documents to take of each file, from the first on; 0 takes all."""
    prefix_token: str | None = None
    """The special token before each text, by name; when unset what the run's documents follow, or the tokenizer's
    beginning-of-text token."""
    bins: int = 15
    """Bins of the calibration error."""
    batch_size: int | None = None
    """Rows of a batch, a multiple of the devices that share one; as many as make 16,384 tokens when unset."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("window", "stride", "batch_size", "bins"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"evaluations: {self.name}: {name}={value}: must be at least 1")
        if self.documents < 0:
            raise ValueError(f"evaluations: {self.name}: documents={self.documents}: must not be negative")

    def begin(self, subject: Subject) -> Measure:
        """Checks the model, the sizes and the files, and returns the function that measures.

        Raises:
          ValueError: the model does not read from left to right, the window is longer than its learned positions, or a
            file cannot be read.
        """
        check_predicts_next(subject.learner.objective)
        window = self.window or subject.sequence_length
        stride = self.stride or max(window // 2, 1)
        model = subject.model
        check_sizes(window, stride, max_length=model.max_length if model.positions == "learned" else None)
        check_files(subject.data, self.files)
        prefix = prefix_id(subject.data, subject.tokenizer.vocabulary, named=self.prefix_token)
        scorer = TokenScorer(subject.learner, width=window, batch_size=self.batch_size)

        def measure(params: Params, after_batch: Callable[[], object]) -> Reading:
            sums = Sums(self.bins)

            def cut() -> Iterator[Window]:
                for text in read_texts(subject.data, self.files, subject.tokenizer, documents=self.documents):
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
                raise NothingScored(f"{', '.join(self.files)}: no token to score: name files with longer texts")
            return sums.reading(notes=(FIRST_NOT_SCORED,) if prefix is None else ())

        return measure


@dataclasses.dataclass(eq=False)
class Sum:
    """Sums over scored tokens, in double precision."""

    nats: float = 0.0
    tokens: int = 0
    first: int = 0
    first_five: int = 0
    bytes: int = 0
    characters: int = 0

    def add(self, log_probability_N: np.ndarray, rank_N: np.ndarray) -> None:
        """Adds scored tokens."""
        self.nats -= float(np.sum(log_probability_N, dtype=np.float64))
        self.tokens += len(rank_N)
        self.first += int(np.sum(rank_N == 0))
        self.first_five += int(np.sum(rank_N < 5))

    @property
    def numbers(self) -> dict[str, float]:
        """Mean nats of a token, their exponential, bits of a byte and of a character, and accuracies."""
        loss = self.nats / self.tokens
        found = {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf}
        if self.bytes:
            found["bits_per_byte"] = self.nats / math.log(2) / self.bytes
        if self.characters:
            found["bits_per_character"] = self.nats / math.log(2) / self.characters
        return found | {"accuracy": self.first / self.tokens, "top5_accuracy": self.first_five / self.tokens}


class Sums:
    """The sums of all tokens, of each file, and of each bucket of places in a document."""

    def __init__(self, num_bins: int):
        """Begins without any tokens."""
        self.whole = Sum()
        self._reliability = Reliability.empty(num_bins)
        self._files: defaultdict[str, Sum] = defaultdict(Sum)
        self._buckets: defaultdict[int, Sum] = defaultdict(Sum)
        self._texts = 0

    def add_text(self, text: Text) -> None:
        """Counts the bytes and characters of a text that is scored."""
        self._texts += 1
        for own in (self.whole, self._files[text.source]):
            own.bytes += text.num_bytes
            own.characters += text.num_characters

    def add(self, window: Window, scores: TokenScores) -> None:
        """Adds the scored tokens of a window, which is labelled with its file."""
        self.whole.add(scores.log_probability_N, scores.rank_N)
        self._files[window.label].add(scores.log_probability_N, scores.rank_N)
        self._reliability.add(scores.confidence_N, scores.rank_N == 0)
        bucket_N = buckets(window.places)
        for bucket in np.unique(bucket_N):
            here_N = bucket_N == bucket
            self._buckets[int(bucket)].add(scores.log_probability_N[here_N], scores.rank_N[here_N])

    def reading(self, *, notes: tuple[str, ...] = ()) -> Reading:
        """Returns the numbers of all tokens, and tables of those of each file and of each bucket."""
        whole = self.whole
        return Reading(
            numbers=whole.numbers | {"calibration_error": self._reliability.error},
            counts={
                "texts": self._texts,
                "tokens": whole.tokens,
                "bytes": whole.bytes,
                "characters": whole.characters,
            },
            notes=notes,
            tables={
                "file": {name: one.numbers | {"tokens": one.tokens} for name, one in self._files.items() if one.tokens},
                "position": {
                    bucket_name(bucket): one.numbers | {"tokens": one.tokens}
                    for bucket, one in sorted(self._buckets.items())
                },
            },
        )


def buckets(places_N: np.ndarray) -> np.ndarray:
    """Returns the bucket of each place in a document: 0 to 15, 16 to 31, 32 to 63, 64 to 127, ..."""
    _, exponent_N = np.frexp(np.maximum(places_N, 1) / FIRST_BUCKET)
    return np.maximum(exponent_N, 0)


def bucket_name(bucket: int) -> str:
    """Returns the first and the last place of a bucket."""
    first = FIRST_BUCKET << (bucket - 1) if bucket else 0
    return f"{first}-{(FIRST_BUCKET << bucket) - 1}"
