"""The bound of diffusion models on the nats of a token of text, over several draws of noise.

Each draw masks every text at another time (see :mod:`lmjax.objectives.masked_diffusion`), and its mean loss is an
unbiased estimate of the bound. The mean over draws has the standard error ``s / sqrt(draws)``, with s the standard
deviation of the draws.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np

from lmjax.models.parameters import Params
from lmjax.objectives import MaskedDiffusion
from lmjax.train.evaluations.evaluation import Evaluation, Measure, Reading, Subject
from lmjax.train.evaluations.sums import Sum, information
from lmjax.train.evaluations.texts import Text, check_files, read_texts
from lmjax.train.evaluations.token_scores import batch_size_for, rows_on_devices
from lmjax.train.evaluations.windows import Window, check_sizes, packed
from lmjax.train.scored import NothingScored
from lmjax.types import IGNORE_INDEX, Rows

NOTE = "the loss is an upper bound on the nats of a token, so the perplexity is one, too"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionBound(Evaluation):
    """The bound on files, with its standard error. A text longer than the window is cut into parts."""

    files: tuple[str, ...]
    """Files, folders or globs, read as `data.path` is."""
    window: int | None = None
    """The most tokens of a row; train.sequence_length when unset."""
    documents: int = 0
    """Documents to take of each file, from the first on; 0 takes all."""
    draws: int = 8
    """Draws of noise; the standard error falls with their square root."""

    def __post_init__(self):
        super().__post_init__()
        if self.documents < 0:
            raise ValueError(f"evaluations: {self.name}: documents={self.documents}: must not be negative")
        if self.draws < 2:
            raise ValueError(f"evaluations: {self.name}: draws={self.draws}: a standard error needs at least 2")

    def begin(self, subject: Subject) -> Measure:
        """Checks the model, the window and the files, and returns the function that measures.

        Raises:
          ValueError: the model was not trained by masked diffusion or score entropy, the window is longer than its
            learned positions, or a file cannot be read.
        """
        learner, model = subject.learner, subject.model
        if not isinstance(learner.objective, MaskedDiffusion):
            raise ValueError(
                f"{type(learner.objective).__name__} has no diffusion bound: measure perplexity (TextFiles), or the "
                f"pseudo-perplexity of an encoder (PseudoPerplexity)"
            )
        window = self.window or subject.sequence_length
        check_sizes(window, 1, max_length=model.max_length if model.positions == "learned" else None)
        check_files(subject.data, self.files)
        size = batch_size_for(learner, window)

        def measure(params: Params, after_batch: Callable[[], object]) -> Reading:
            files: dict[str, tuple[Sum, np.ndarray]] = {}
            texts = read_texts(subject.data, self.files, subject.tokenizer, documents=self.documents)
            for number, (source, own) in enumerate(itertools.groupby(texts, lambda text: text.source)):
                counts, nats_D = Sum(), np.zeros(self.draws)
                batches = packed(_parts(own, window, counts), num_rows=size, width=window)
                for place, batch in enumerate(batches):
                    weights_BT = (batch.targets_BT != IGNORE_INDEX).astype(np.float32)
                    arrays = rows_on_devices(learner, batch.inputs_BT, batch.segments_BT, weights_BT)
                    rows = Rows(tokens_BT=arrays[0], segments_BT=arrays[1], weights_BT=arrays[2])
                    for draw in range(self.draws):
                        key = jax.random.key(0)
                        for part in (number, place, draw):
                            key = jax.random.fold_in(key, part)
                        with jax.set_mesh(learner.mesh):
                            sums, _ = learner.eval_step(params, rows, key, None)
                        nats_D[draw] += float(sums["loss"])
                    after_batch()
                if counts.tokens:
                    files[source] = counts, nats_D
            if not files:
                raise NothingScored(f"{', '.join(self.files)}: no token to score: name files with text")
            whole = Sum()
            for counts, _ in files.values():
                whole.merge(counts)
            total_D = np.sum([nats_D for _, nats_D in files.values()], axis=0)
            return Reading(
                numbers=_numbers(whole, total_D),
                counts={"tokens": whole.tokens, "bytes": whole.bytes, "characters": whole.characters},
                notes=(NOTE,),
                tables={"file": {name: _numbers(*one) | {"tokens": one[0].tokens} for name, one in files.items()}},
            )

        return measure


def _numbers(counts: Sum, nats_D: np.ndarray) -> dict[str, float]:
    error = float(np.std(nats_D / counts.tokens, ddof=1)) / math.sqrt(len(nats_D))
    return information(float(nats_D.mean()), counts) | {"standard_error": error}


def _parts(texts: Iterator[Text], size: int, counts: Sum) -> Iterator[Window]:
    """Yields texts in parts of at most ``size`` tokens, and counts what of them is scored."""
    for text in texts:
        counts.tokens += int(text.scored_N.sum())
        counts.bytes += text.num_bytes
        counts.characters += text.num_characters
        targets = np.where(text.scored_N, text.tokens_N, IGNORE_INDEX).astype(np.int32)
        for begin in range(0, len(targets), size):
            part = slice(begin, begin + size)
            if (targets[part] != IGNORE_INDEX).any():
                yield Window(text.tokens_N[part], targets[part], begin)
