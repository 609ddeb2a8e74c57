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
from lmjax.train.evaluations.evaluation import Measure, Reading, Subject
from lmjax.train.evaluations.on_texts import OnTexts
from lmjax.train.evaluations.sums import Sum, information
from lmjax.train.evaluations.texts import Text
from lmjax.train.evaluations.token_scores import batch_size_for, rows_on_devices
from lmjax.train.evaluations.windows import Window, packed
from lmjax.types import IGNORE_INDEX, Rows

NOTE = "the loss is an upper bound on the nats of a token, so the perplexity is one, too"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionBound(OnTexts):
    """The bound on files, with its standard error. A text longer than the window is cut into parts."""

    draws: int = 8
    """Draws of noise; the standard error falls with their square root."""

    def __post_init__(self):
        super().__post_init__()
        if self.draws < 2:
            raise ValueError(f"evaluations: {self.name}: draws={self.draws}: a standard error needs at least 2")

    def begin(self, subject: Subject) -> Measure:
        """Checks the model, the window and the files, and returns the function that measures.

        Raises:
          ValueError: the model was not trained by masked diffusion or score entropy, the window is longer than its
            learned positions, or a file cannot be read.
        """
        learner = subject.learner
        if not isinstance(learner.objective, MaskedDiffusion):
            raise ValueError(
                f"{type(learner.objective).__name__} has no diffusion bound: measure perplexity (TextFiles), or the "
                f"pseudo-perplexity of an encoder (PseudoPerplexity)"
            )
        window = self.window_for(subject)
        size = batch_size_for(learner, window)

        def measure(params: Params, after_batch: Callable[[], object]) -> Reading:
            files: dict[str, tuple[Sum, np.ndarray]] = {}
            texts = itertools.groupby(self.texts(subject), lambda text: text.source)
            for number, (source, own) in enumerate(texts):
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
                raise self.nothing_scored()
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
