"""Objectives whose loss is cross entropy of tokens, and what they share with other objectives on tokens."""

import dataclasses

import jax
import jax.numpy as jnp

from lmjax.losses import linear_cross_entropy
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import model_of
from lmjax.objectives.parts.objective import Objective, Terms, Traits
from lmjax.schedules.ramp import at_end
from lmjax.types import Batch, Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenObjective(Objective):
    """An objective with one term, ``loss``: the cross entropy of the tokens at the scored positions."""

    label_smoothing: float = 0.0
    """Probability mass taken from the right token and spread over the vocabulary."""
    z_loss: float = 0.0
    """Weight of the squared log-normaliser, which keeps logits from drifting (PaLM, section 5)."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"objective.label_smoothing={self.label_smoothing}: must be at least 0 and below 1")
        if self.z_loss < 0:
            raise ValueError(f"objective.z_loss={self.z_loss}: must not be negative")

    @property
    def traits(self) -> Traits:
        """The term ``loss`` is of tokens of text."""
        return Traits(text_term="loss")

    def terms(self, model: Transformer, batch: Batch, key: jax.Array | None) -> Terms:
        """Runs the model, gathers the scored positions, and applies head and loss to them."""
        # What an objective adds to the model takes no part here: it may be evaluated by another, plainer one.
        model = model_of(model)
        hidden = model(batch.inputs, encoder=batch.encoder, cross_mask=batch.cross_mask, key=key)
        states_BPE = model.head_states(gather_scored(hidden.states_BTD, batch.scored_BP))
        loss = self.token_loss(model, states_BPE, batch.targets_BP, batch.weights["loss"])
        return Terms({"loss": loss}, hidden.routing)

    def token_loss(
        self, model: Transformer, states_BPE: jax.Array, targets_BP: jax.Array, weights_BP: jax.Array
    ) -> jax.Array:
        """Returns :func:`head_loss` with this objective's smoothing."""
        smoothing = {"label_smoothing": self.label_smoothing, "z_loss": self.z_loss}
        return head_loss(model, states_BPE, targets_BP, weights_BP, **smoothing)

    def for_evaluation(self) -> "TokenObjective":
        """Returns the objective with plain cross entropy, from which perplexity and bits per byte are computed."""
        return dataclasses.replace(at_end(self), label_smoothing=0.0, z_loss=0.0)


def head_loss(
    model: Transformer,
    states_BPE: jax.Array,
    targets_BP: jax.Array,
    weights_BP: jax.Array,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> jax.Array:
    """Returns ``sum(weights * cross entropy)``, computed a chunk of positions at a time.

    Args:
      model: its output map gives the logits.
      states_BPE: ``model.head_states`` of the hidden states.
      targets_BP: the right tokens.
      weights_BP: the weight of each position.
      label_smoothing: see :class:`TokenObjective`.
      z_loss: see :class:`TokenObjective`.
    """
    head = model.head()
    return linear_cross_entropy(
        states_BPE,
        head.weight_DV,
        targets_BP,
        weights_BP,
        bias=head.bias_V,
        softcap=head.softcap,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
    )


def gather_scored(hidden_BTD: jax.Array, scored_BP: jax.Array | None) -> jax.Array:
    """Returns the hidden states of the scored positions, [B, P, D], or all of them if ``scored_BP`` is None."""
    if scored_BP is None:
        return hidden_BTD
    return jnp.take_along_axis(hidden_BTD, scored_BP[:, :, None], axis=1)


def token_weights(rows: Rows) -> jax.Array:
    """Returns the loss weight of each token as a target, float32 [B, T]: that of the data, or 1, and 0 on padding."""
    weights_BT = jnp.ones(rows.tokens_BT.shape, jnp.float32) if rows.weights_BT is None else rows.weights_BT
    return weights_BT if rows.segments_BT is None else weights_BT * (rows.segments_BT > 0)


def next_token_targets(rows: Rows) -> tuple[jax.Array, jax.Array | None, jax.Array, jax.Array]:
    """Splits rows of T + 1 tokens into T inputs and the T tokens that follow them.

    Returns:
      inputs_BT, segments_BT (or None), targets_BT, weights_BT. The weight is 0 where the next token
      belongs to another document.
    """
    weights_BT = token_weights(rows)[:, 1:]
    segments_BT = rows.segments_BT
    if segments_BT is not None:
        weights_BT = weights_BT * (segments_BT[:, 1:] == segments_BT[:, :-1])
        segments_BT = segments_BT[:, :-1]
    return rows.tokens_BT[:, :-1], segments_BT, rows.tokens_BT[:, 1:], weights_BT
