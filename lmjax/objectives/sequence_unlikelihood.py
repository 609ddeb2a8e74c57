"""Sequence-level unlikelihood: against repetition in what the model writes itself (Welleck et al. 2020, section 5.2).

From a prompt of the data the model writes a continuation y; every token of an n-gram that y had already is a
negative candidate there:

    sequence = - mean over y of  [y_t repeats]  log(1 - p(y_t | prompt, y_<t))

added to the terms of :class:`~lmjax.objectives.unlikelihood.UnlikelihoodLM`. The paper alternates between this
loss and the token-level one by a coin for each batch; here every step has both, which is the same in expectation
up to the weight.

Axes: W tokens of a window.
"""

import dataclasses

import jax
import jax.numpy as jnp

from lmjax.losses import unlikelihood
from lmjax.losses.unlikelihood import repeated_ngrams
from lmjax.models.config import ModelConfig
from lmjax.models.head import gathered_head
from lmjax.models.layers import split_key
from lmjax.models.transformer import Transformer
from lmjax.objectives.parts.logit_chunks import chunk_length, sum_over_chunks
from lmjax.objectives.parts.model_samples import (
    check_temperature,
    check_window,
    check_window_fits,
    choose_windows,
    continue_prompts,
    sampling_extras,
)
from lmjax.objectives.parts.objective import Objective, Terms
from lmjax.objectives.unlikelihood import UnlikelihoodLM
from lmjax.schedules.ramp import Scalar, current, extremes
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceUnlikelihoodLM(UnlikelihoodLM):
    """The token-level terms, and the unlikelihood of repetition in the model's own continuations."""

    sequence_weight: Scalar = 1.0
    """Weight of the sequence-level term."""
    ngram: int = 4
    """Number of consecutive tokens that make a repetition."""
    prompt_length: int = 50
    """Number of tokens of text before a continuation."""
    free_tokens: int = 100
    """Number of tokens of the continuation."""
    temperature: Scalar = 0.0
    """Temperature of the sampling; 0 takes the likeliest token, as the paper does."""

    def __post_init__(self):
        super().__post_init__()
        check_window(prompt_length=self.prompt_length, free_tokens=self.free_tokens)
        check_temperature(self.temperature)
        if min(extremes(self.sequence_weight)) < 0:
            raise ValueError(f"objective.sequence_weight={self.sequence_weight}: must not be negative")
        if not 1 <= self.ngram < self.free_tokens:
            raise ValueError(
                f"objective.ngram={self.ngram}: must be at least 1 and below objective.free_tokens={self.free_tokens}"
            )

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses pieces longer than a row."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        check_window_fits(
            prompt_length=self.prompt_length, free_tokens=self.free_tokens, sequence_length=sequence_length
        )

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Makes the token-level objective's batch and takes a prompt from each row that has room for one."""
        token_key, window_key, sample_key = jax.random.split(key, 3)
        batch = super().corrupt(token_key, rows, vocabulary)
        windows_BW, weights_B = choose_windows(
            window_key, rows, prompt_length=self.prompt_length, num_tokens=self.free_tokens
        )
        extras = {"prompt": windows_BW[:, : self.prompt_length]}
        extras |= sampling_extras(sample_key, windows_BW.shape[0], vocabulary)
        return dataclasses.replace(batch, weights=batch.weights | {"sequence": weights_B}, extras=batch.extras | extras)

    def terms(self, model: Transformer, batch: Batch, key: jax.Array | None) -> Terms:
        """Returns the token-level terms, and that of a pass over what the model has written."""
        token_key, sequence_key = split_key(key, 2)
        terms = super().terms(model, batch, token_key)
        written_BW = continue_prompts(
            model,
            batch.extras["prompt"],
            batch.extras,
            num_tokens=self.free_tokens,
            temperature=current(self.temperature),
        )
        states_BWD = model(make_stream(written_BW, None, "causal"), key=sequence_key).states_BTD
        own_BT = written_BW[:, self.prompt_length :]
        candidates_BT1 = jnp.where(repeated_ngrams(own_BT, self.ngram), own_BT, -1)[:, :, None]
        head = gathered_head(model)

        weights_BT = jnp.broadcast_to(batch.weights["sequence"][:, None], own_BT.shape)

        def chunk(hidden_BCD: jax.Array, candidates_BC1: jax.Array, weights_BC: jax.Array) -> tuple[jax.Array]:
            return (jnp.sum(weights_BC * unlikelihood(head(hidden_BCD), candidates_BC1)),)

        # What is said at a position is scored at the one before.
        (total,) = sum_over_chunks(
            chunk,
            chunk_length(own_BT.shape[0], model.config.vocab_size),
            states_BWD[:, self.prompt_length - 1 : -1],
            candidates_BT1,
            weights_BT,
        )
        return terms | {"sequence": total / self.free_tokens}

    def coefficients(self) -> dict[str, float | jax.Array]:
        """Returns the token-level coefficients and the sequence term's weight."""
        return super().coefficients() | {"sequence": current(self.sequence_weight)}

    def for_evaluation(self) -> Objective:
        """Returns the token-level objective: no text is written in a validation."""
        token_level = {field.name: getattr(self, field.name) for field in dataclasses.fields(UnlikelihoodLM)}
        return UnlikelihoodLM(**token_level).for_evaluation()
