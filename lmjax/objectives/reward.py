"""A reward model: a score of a text by which the chosen answer comes out above the rejected one.

    loss = - log sigmoid(r(x, y_c) - r(x, y_r) - margin)

(Bradley and Terry 1952; Ouyang et al. 2022, equation 1); r is linear in the state of the text's last token.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.layout import documents
from lmjax.losses import bradley_terry_loss
from lmjax.models.config import ModelConfig
from lmjax.models.layers import Projection
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import WithExtras
from lmjax.objectives.parts.example_texts import stream_apart
from lmjax.objectives.parts.objective import Objective, Terms, Traits
from lmjax.objectives.parts.token_objective import gather_scored, token_weights
from lmjax.schedules.ramp import Scalar, current, extremes
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream

TERMS = ("preference", "accuracy", "margin")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairwiseReward(Objective):
    """Bradley-Terry on pairs of a chosen and a rejected answer. Reports margins and how often they are positive."""

    margin: Scalar = 0.0
    """By how much the chosen answer's score should be higher (Llama 2, Touvron et al. 2023, equation 2)."""

    def __post_init__(self):
        super().__post_init__()
        if min(extremes(self.margin)) < 0:
            raise ValueError(f"objective.margin={self.margin}: must not be negative")

    @property
    def traits(self) -> Traits:
        """An example is a chosen and a rejected answer."""
        return Traits(
            num_members=2,
            measures=frozenset(TERMS[1:]),
            instead_of_text="it scores whole answers: `lmjax evaluate RUN` tells how often the chosen one wins",
        )

    def row_length(self, sequence_length: int) -> int:
        """Returns 2 T: T tokens for each answer."""
        return 2 * sequence_length

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the model, with the layer ``score`` as an extra.

        Initial scores are those of random weights of deviation ``1 / sqrt(width)``.
        """
        transformer = Transformer(model, rngs=rngs)
        score = Projection({"embed": model.width}, {"reward": 1}, std=None, bias=False, dtype=model.dtype, rngs=rngs)
        return WithExtras(transformer, score=score)

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Finds the last token of each answer."""
        del key, vocabulary
        num_rows = rows.tokens_BT.shape[0]
        assert rows.segments_BT is not None, "rows of examples say where padding is"
        where = documents(rows.segments_BT, rows.tokens_BT.shape)
        index_B2S = jnp.where(where.last, where.index_BT, 0).reshape(num_rows, 2, -1)
        has_weight_B2 = jnp.any((token_weights(rows) > 0).reshape(index_B2S.shape), axis=2)
        weights_B = jnp.all(has_weight_B2, axis=1).astype(jnp.float32)
        return Batch(
            inputs=make_stream(rows.tokens_BT, rows.segments_BT, "causal"),
            targets_BP=jnp.zeros((num_rows, 0), jnp.int32),
            scored_BP=jnp.max(index_B2S, axis=2),
            weights=dict.fromkeys(TERMS, weights_B),
        )

    def terms(self, model: WithExtras, batch: Batch, key: jax.Array | None) -> Terms:
        """Returns the loss and, as measures, by how much the chosen answer's score is higher, and whether it is."""
        num_rows, length = batch.inputs.tokens_BT.shape
        hidden = model.model(stream_apart(batch.inputs, 2), key=key)
        hidden_B2D = gather_scored(hidden.states_BTD.reshape(num_rows, length, -1), batch.scored_BP)
        rewards_B2 = model.extras["score"](hidden_B2D)[..., 0].astype(jnp.float32)
        losses_B = bradley_terry_loss(rewards_B2[:, 0], rewards_B2[:, 1], margin=current(self.margin))
        margins_B = jax.lax.stop_gradient(rewards_B2[:, 0] - rewards_B2[:, 1])
        values = (losses_B, margins_B > 0, margins_B)
        sums = {name: jnp.sum(batch.weights[name] * value) for name, value in zip(TERMS, values, strict=True)}
        return Terms(sums, hidden.routing)

    def for_evaluation(self) -> "PairwiseReward":
        """Returns the objective without a margin, whose loss is the negative log-likelihood of the preferences."""
        return dataclasses.replace(super().for_evaluation(), margin=0.0)  # type: ignore[call-arg,return-value]
