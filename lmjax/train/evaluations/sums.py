"""Sums over scored tokens: of all, of each file, and of each bucket of places in a document."""

import dataclasses
import math
from collections import defaultdict

import numpy as np

from lmjax.train.evaluations.calibration import Reliability
from lmjax.train.evaluations.evaluation import Reading
from lmjax.train.evaluations.texts import Text
from lmjax.train.evaluations.token_scores import TokenScores
from lmjax.train.evaluations.windows import Window

FIRST_BUCKET = 16
"""The number of places in the first bucket; each further one has as many as all before it."""


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

    def merge(self, other: "Sum") -> None:
        """Adds the sums of other tokens."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def numbers(self) -> dict[str, float]:
        """Mean nats of a token, their exponential, bits of a byte and of a character, and accuracies."""
        return information(self.nats, self) | self.accuracies

    @property
    def accuracies(self) -> dict[str, float]:
        """The shares of tokens that are the likeliest, and among the five likeliest."""
        return {"accuracy": self.first / self.tokens, "top5_accuracy": self.first_five / self.tokens}


def information(nats: float, counts: Sum) -> dict[str, float]:
    """Returns mean nats of a token, their exponential, and bits of a byte and of a character of text."""
    loss = nats / counts.tokens
    found = {"loss": loss, "perplexity": exponential(loss)}
    if counts.bytes:
        found["bits_per_byte"] = nats / math.log(2) / counts.bytes
    if counts.characters:
        found["bits_per_character"] = nats / math.log(2) / counts.characters
    return found


def exponential(loss: float) -> float:
    """Returns ``exp(loss)``, which may be infinite."""
    return math.exp(loss) if loss < 700 else math.inf


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
