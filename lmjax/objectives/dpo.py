"""Direct preference optimisation: make the chosen answer likelier, against what a reference model says.

    loss = - log sigmoid(beta h),   h = log pi(y_c|x) / pi_ref(y_c|x)  -  log pi(y_r|x) / pi_ref(y_r|x)

(Rafailov et al. 2023, equation 7), or ``(h - 1 / (2 beta))^2`` (IPO, Azar et al. 2023, equation 17). The
reference is a frozen copy of the policy as it was before the first step.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.losses import IGNORE_INDEX, dpo_loss, linear_token_losses
from lmjax.models.config import ModelConfig
from lmjax.models.parameters import Params
from lmjax.models.routing import Routing
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import WithExtras
from lmjax.objectives.parts.example_texts import apart, stream_apart
from lmjax.objectives.parts.objective import Objective, Terms, Traits
from lmjax.objectives.parts.token_objective import next_token_targets
from lmjax.schedules.ramp import Scalar, current, extremes
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, Stream, make_stream

TERMS = ("preference", "accuracy", "margin", "chosen_reward", "rejected_reward")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPO(Objective):
    """DPO or IPO on pairs of a chosen and a rejected answer. Reports rewards, margins, and how many are positive."""

    beta: Scalar = 0.1
    """How strongly the policy is kept near the reference."""
    variant: Literal["sigmoid", "ipo"] = "sigmoid"
    """DPO's loss, or IPO's."""
    label_smoothing: Scalar = 0.0
    """Probability that a pair is labelled the wrong way round (conservative DPO)."""

    def __post_init__(self):
        super().__post_init__()
        if not all(beta > 0 for beta in extremes(self.beta)):
            raise ValueError(f"objective.beta={self.beta}: must be above 0")
        if not all(0 <= share < 0.5 for share in extremes(self.label_smoothing)):
            raise ValueError(f"objective.label_smoothing={self.label_smoothing}: must be at least 0 and under 0.5")
        if self.variant == "ipo" and self.label_smoothing != 0:
            raise ValueError(f"objective.label_smoothing={self.label_smoothing}: IPO has none: set it to 0")

    @property
    def traits(self) -> Traits:
        """An example is a chosen and a rejected answer."""
        return Traits(num_members=2, measures=frozenset(TERMS[1:]))

    def row_length(self, sequence_length: int) -> int:
        """Returns 2 (T + 1): for each answer T inputs and the token after the last of them."""
        return 2 * (sequence_length + 1)

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the policy, with a frozen copy of it, ``reference``, as an extra."""
        policy = Transformer(model, rngs=rngs)
        reference = nnx.clone(policy)
        for _, node in nnx.iter_graph(reference):
            if isinstance(node, nnx.Variable):
                node.set_metadata(kind="frozen")
        return WithExtras(policy, reference=reference)

    def adopt(self, fresh: Params, *, model: Params, saved: Params) -> Params:
        """Returns the extras: the other run's model is the reference, whatever it was trained for."""
        return {"reference": model}

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Shifts each answer; ``extras["response"]`` is the weight of each target in its answer's log-probability.

        A pair counts when something of both answers is left to score.
        """
        del key, vocabulary
        assert rows.segments_BT is not None, "rows of examples say where padding is"
        num_rows = rows.tokens_BT.shape[0]
        shifted = next_token_targets(jax.tree.map(lambda array_BT: apart(array_BT, 2), rows))
        inputs_BT, segments_BT, targets_BT, response_BT = jax.tree.map(lambda a: a.reshape(num_rows, -1), shifted)
        is_pair_B = jnp.all(jnp.any(apart(response_BT, 2) > 0, axis=1).reshape(num_rows, 2), axis=1)
        return Batch(
            inputs=make_stream(inputs_BT, segments_BT, "causal"),
            targets_BP=jnp.where(response_BT > 0, targets_BT, IGNORE_INDEX),
            weights=dict.fromkeys(TERMS, is_pair_B.astype(jnp.float32)),
            extras={"response": response_BT},
        )

    def terms(self, model: WithExtras, batch: Batch, key: jax.Array | None) -> Terms:
        """Returns the loss and, as measures, ``beta`` times the log-ratios to the reference and their order."""
        stream = stream_apart(batch.inputs, 2)
        targets_CT, response_CT = apart(batch.targets_BP, 2), apart(batch.extras["response"], 2)
        policy, reference = model.model, model.extras["reference"]
        policy_C, routing = log_probabilities(policy, stream, targets_CT, response_CT, key=key)
        reference_C, _ = jax.lax.stop_gradient(log_probabilities(reference, stream, targets_CT, response_CT))
        policy_B2, reference_B2 = policy_C.reshape(-1, 2), reference_C.reshape(-1, 2)
        beta = current(self.beta)
        losses_B = dpo_loss(
            policy_B2[:, 0],
            policy_B2[:, 1],
            reference_B2[:, 0],
            reference_B2[:, 1],
            beta=beta,
            label_smoothing=current(self.label_smoothing),
            variant=self.variant,
        )
        rewards_B2 = beta * jax.lax.stop_gradient(policy_B2 - reference_B2)
        margins_B = rewards_B2[:, 0] - rewards_B2[:, 1]
        values = (losses_B, margins_B > 0, margins_B, rewards_B2[:, 0], rewards_B2[:, 1])
        sums = {name: jnp.sum(batch.weights[name] * value) for name, value in zip(TERMS, values, strict=True)}
        return Terms(sums, routing)

    def for_evaluation(self) -> "DPO":
        """Returns the objective without label smoothing."""
        return dataclasses.replace(super().for_evaluation(), label_smoothing=0.0)  # type: ignore[call-arg,return-value]


def log_probabilities(
    model: Transformer,
    stream: Stream,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    key: jax.Array | None = None,
) -> tuple[jax.Array, Routing | None]:
    """Returns ``sum over t of w_t log p(target_t | ...)`` of each row, float32 [B], and the expert statistics.

    Logits exist for a chunk at a time.

    Args:
      model: names the tokens.
      stream: what it reads, [B, T].
      targets_BT: the token each position is to name, -100 for none.
      weights_BT: what it counts.
      key: PRNG key of dropout.
    """
    hidden = model(stream, key=key)
    head = model.head()
    losses_BT = linear_token_losses(
        model.head_states(hidden.states_BTD),
        head.weight_DV,
        targets_BT,
        bias=head.bias_V,
        softcap=head.softcap,
    )
    return -jnp.sum(weights_BT * losses_BT, axis=1), hidden.routing
