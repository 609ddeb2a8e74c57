"""Pseudo-perplexity: how well an encoder names each token of a text when this token alone is masked.

    PPPL = exp( - 1/N  sum over texts and places t of  log p(x_t | x without t) )

(Salazar et al. 2020, "Masked Language Model Scoring", equations 1 and 4). It is no probability of the text, so there
are no bits per byte, and it cannot be compared with the perplexity of a model that reads from left to right.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.models.head import gathered_head
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.models.with_extras import model_of
from lmjax.objectives import MaskedDiffusion, Objective, SentencePairs
from lmjax.objectives.parts.naming_tokens import check_names_tokens
from lmjax.parallel.mesh import constrain
from lmjax.train.evaluations.evaluation import Measure, Reading, Subject
from lmjax.train.evaluations.on_texts import OnTexts
from lmjax.train.evaluations.sums import Sum, exponential
from lmjax.train.evaluations.token_scores import Scores, batch_size_for, rows_on_devices, scores_of
from lmjax.train.step import Learner
from lmjax.types import make_stream

SHORTEST = 16
"""The least number of positions of a row. Rows of texts of similar length are as long as the next power of two."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoPerplexity(OnTexts):
    """The mean over all tokens of files, each masked once, which costs a pass over its row.

    A text longer than the window is cut into parts.
    """

    before: str | None = None
    """The special token before each part, by name; when unset as in the run's data."""
    after: str | None = None
    """The special token after each part, by name; when unset as in the run's data."""

    def begin(self, subject: Subject) -> Measure:
        """Checks the model, the window and the files, and returns the function that measures.

        Raises:
          ValueError: the model is no encoder that names masked tokens, the window is longer than its learned positions,
            or a file cannot be read.
        """
        _check_names_masked(subject.learner.objective)
        before, after = ([] if mark is None else [mark] for mark in self._marks(subject))
        window = self.window_for(subject)
        size = window - len(before) - len(after)
        if size < 1:
            raise ValueError(f"window={window} has no room beside the special tokens: set it to at least {window + 1}")
        mask_id = subject.tokenizer.vocabulary.require("mask", needed_by="pseudo-perplexity")

        def parts() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
            for text in self.texts(subject):
                for begin in range(0, len(text.tokens_N), size):
                    part = slice(begin, begin + size)
                    row = np.concatenate([before, text.tokens_N[part], after]).astype(np.int32)
                    yield text.source, row, len(before) + np.flatnonzero(text.scored_N[part])

        def measure(params: Params, after_batch: Callable[[], object]) -> Reading:
            files: defaultdict[str, Sum] = defaultdict(Sum)
            for source, log_probability, rank in _masked_once(
                subject.learner, params, parts(), width=window, mask_id=mask_id, after_batch=after_batch
            ):
                files[source].add(log_probability, rank)
            if not files:
                raise self.nothing_scored()
            whole = Sum()
            for one in files.values():
                whole.merge(one)
            tables = {"file": {name: _numbers(one) | {"tokens": one.tokens} for name, one in files.items()}}
            return Reading(numbers=_numbers(whole), counts={"tokens": whole.tokens}, tables=tables)

        return measure

    def _marks(self, subject: Subject) -> tuple[int | None, int | None]:
        vocabulary, data = subject.tokenizer.vocabulary, subject.data
        if isinstance(subject.learner.objective, SentencePairs):
            marks = vocabulary.cls_id, vocabulary.sep_id
        else:
            ends = data.add_eos and data.packing != "windows"
            marks = vocabulary.bos_id if data.add_bos else None, vocabulary.eos_id if ends else None
        names = self.before, self.after
        return tuple(  # type: ignore[return-value]
            mark if name is None else vocabulary.require(name, needed_by="pseudo-perplexity")
            for name, mark in zip(names, marks, strict=True)
        )


def _numbers(total: Sum) -> dict[str, float]:
    loss = total.nats / total.tokens
    return {"pseudo_loss": loss, "pseudo_perplexity": exponential(loss)} | total.accuracies


def _check_names_masked(objective: Objective) -> None:
    check_names_tokens(objective)
    if objective.traits.attention != "bidirectional" or objective.traits.reads_with_encoder:
        raise ValueError(
            f"{type(objective).__name__} does not train an encoder that names masked tokens: measure perplexity "
            f"(TextFiles)"
        )
    if isinstance(objective, MaskedDiffusion):
        raise ValueError(f"{type(objective).__name__} has a bound on the likelihood: measure that (DiffusionBound)")


def _masked_once(
    learner: Learner,
    params: Params,
    parts: Iterator[tuple[str, np.ndarray, np.ndarray]],
    *,
    width: int,
    mask_id: int,
    after_batch: Callable[[], object],
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields (source, log-probabilities, ranks) of tokens, each masked once; rows of similar length share a batch."""
    waiting: defaultdict[int, list[tuple[str, np.ndarray, int]]] = defaultdict(list)

    def score(length: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        size = batch_size_for(learner, length)
        copies, waiting[length] = waiting[length][:size], waiting[length][size:]
        tokens_BT = np.zeros((size, length), np.int32)
        lengths_B, places_B = np.zeros(size, np.int32), np.zeros(size, np.int32)
        for number, (_, row, place) in enumerate(copies):
            tokens_BT[number, : len(row)] = row
            lengths_B[number], places_B[number] = len(row), place
        arrays = rows_on_devices(learner, tokens_BT, lengths_B, places_B)
        with jax.set_mesh(learner.mesh):
            found = _masked_scores(params, *arrays, spec=learner.spec, mask_id=mask_id)
        log_probability_B, rank_B, _ = map(np.asarray, found)
        after_batch()
        for number, (source, _, _) in enumerate(copies):
            yield source, log_probability_B[number : number + 1], rank_B[number : number + 1]

    for source, row, places in parts:
        length = min(max(SHORTEST, 1 << (len(row) - 1).bit_length()), width)
        waiting[length] += [(source, row, int(place)) for place in places]
        while len(waiting[length]) >= batch_size_for(learner, length):
            yield from score(length)
    for length in list(waiting):
        while waiting[length]:
            yield from score(length)


@functools.partial(jax.jit, static_argnames=("spec", "mask_id"))
def _masked_scores(
    params: Params, tokens_BT: jax.Array, lengths_B: jax.Array, places_B: jax.Array, *, spec: ModuleSpec, mask_id: int
) -> Scores:
    """The scores of one token of each row, which is masked, [B] each."""
    model: Any = model_of(spec.bind(params))
    index_1T = jnp.arange(tokens_BT.shape[1])[None, :]
    is_real_BT = index_1T < lengths_B[:, None]
    masked_BT = jnp.where(index_1T == places_B[:, None], mask_id, tokens_BT)
    states_BTD = model(make_stream(masked_BT, is_real_BT.astype(jnp.int32), "bidirectional")).states_BTD
    states_B1D = jnp.take_along_axis(states_BTD, places_B[:, None, None], axis=1)
    targets_B1 = jnp.take_along_axis(tokens_BT, places_B[:, None], axis=1)
    found = scores_of(gathered_head(model)(states_B1D), targets_B1)
    return jax.tree.map(lambda array_B1: constrain(array_B1, None, None)[:, 0], found)
