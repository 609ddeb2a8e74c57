"""Scheduled sampling: a model that learns to go on from what it would have said itself (Bengio et al. 2015).

In the form for transformers (Mihaylova and Martins 2019, section 3), all positions at once: a first pass reads
the true tokens and predicts at every position; a second reads a mix,

    y_t = x_t with probability epsilon,  else a prediction of  p(. | x_<t),       epsilon = teacher_rate(step)
    loss = mean over t of  - log p(x_t | y_<t),

and only the second is differentiated. Bengio et al. (section 2.4) let epsilon fall from 1 along a line, an
exponential or an inverse sigmoid: shapes of :class:`lmjax.schedules.ramp.Ramp`.
"""

import dataclasses

import jax

from lmjax.corruption.scheduled import predicted_positions, put_predictions
from lmjax.models.transformer import Transformer
from lmjax.objectives.causal_lm import CausalLM
from lmjax.objectives.parts.model_samples import check_temperature, predict_next, sampling_extras
from lmjax.objectives.parts.objective import Terms
from lmjax.objectives.parts.token_objective import TokenObjective
from lmjax.schedules.ramp import Ramp, Scalar, current, extremes
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduledSampling(TokenObjective):
    """Next-token prediction from a mix of the true tokens and the model's own predictions."""

    teacher_rate: Scalar = Ramp(start=1.0, end=0.5, steps=10_000, shape="inverse_sigmoid")
    """Epsilon, the share of inputs that are the true tokens; may follow a schedule."""
    temperature: Scalar = 1.0
    """Temperature of the distribution from which predictions are drawn; 0 takes the likeliest token."""

    def __post_init__(self):
        super().__post_init__()
        if not all(0 <= rate <= 1 for rate in extremes(self.teacher_rate)):
            raise ValueError(f"objective.teacher_rate={self.teacher_rate}: is a share, from 0 to 1")
        check_temperature(self.temperature)

    def row_length(self, sequence_length: int) -> int:
        """Returns T + 1: T inputs and the token after the last of them."""
        return sequence_length + 1

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Makes a causal model's batch and draws the inputs to be replaced. ``terms`` makes the predictions."""
        place_key, sample_key = jax.random.split(key)
        batch = CausalLM().corrupt(key, rows, vocabulary)
        shape = batch.inputs.tokens_BT.shape
        segments_BT = None if rows.segments_BT is None else rows.segments_BT[:, :-1]
        rate = current(self.teacher_rate)
        predicted_BT = predicted_positions(place_key, shape, teacher_rate=rate, segments_BT=segments_BT)
        extras = {"predicted": predicted_BT} | sampling_extras(sample_key, shape[0], vocabulary)
        return dataclasses.replace(batch, extras=extras)

    def terms(self, model: Transformer, batch: Batch, key: jax.Array | None) -> Terms:
        """Runs two passes. The first has no dropout, as when a model writes text."""
        inputs = dataclasses.replace(batch.inputs, tokens_BT=self.mixed(model, batch))
        return super().terms(model, dataclasses.replace(batch, inputs=inputs), key)

    def mixed(self, model: Transformer, batch: Batch) -> jax.Array:
        """Returns what the second pass reads, int32 [B, T]."""
        taught = jax.lax.stop_gradient(model)
        states_BTD = taught(batch.inputs).states_BTD
        predictions_BT = predict_next(taught, states_BTD, batch.extras, temperature=current(self.temperature))
        return put_predictions(batch.inputs.tokens_BT, predictions_BT, batch.extras["predicted"])

    def for_evaluation(self) -> CausalLM:
        """Returns a causal model's objective, on the true tokens alone."""
        return CausalLM()
