"""Multi-token prediction by modules in sequence: DeepSeek-V3 (DeepSeek-AI 2024, section 2.2).

    h0      = the model's states after its last block
    h(k)_i  = Block_k( M_k [norm(h(k-1)_i); norm(Emb(x_(i+k)))] ),      k = 1..K
    loss    = - log p_0(x_(i+1) | h0_i)  +  lambda / K  sum over k of  - log p_k(x_(i+k+1) | h(k)_i),

each a mean over positions. Module k reads the tokens the heads before it have named, so the causal chain is
whole at every depth. Embedding and unembedding are the model's own; without the modules it is unchanged.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.models.config import ModelConfig
from lmjax.models.hidden import Hidden
from lmjax.models.layers import Projection, make_norm, split_key
from lmjax.models.routing import Routing, joined
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import WithExtras
from lmjax.objectives.multi_token import TokensAhead
from lmjax.objectives.parts.objective import Terms
from lmjax.schedules.ramp import Scalar, current, extremes
from lmjax.types import Batch, Stream


class PredictionModule(nnx.Module):
    """Layers that predict one more token ahead: two norms, a projection, a block, and the norm before the head."""

    def __init__(self, model: Transformer, *, rngs: nnx.Rngs):
        """Builds a block as those of ``model`` are."""
        config = model.config
        self.state_norm = make_norm(config)
        self.embedding_norm = make_norm(config)
        self.projection = Projection(
            {"joined": 2 * config.width},
            {"embed": config.width},
            std=config.matrix_std,
            bias=False,
            dtype=config.dtype,
            rngs=rngs,
        )
        self.block = model.new_block(rngs, layer=config.num_layers - 1)
        self.head_norm = make_norm(config)

    def joined(self, states_BTD: jax.Array, embedded_BTD: jax.Array) -> jax.Array:
        """Returns what the block reads, made of the states before it and the embedded tokens ahead, [B, T, D]."""
        return self.projection(
            jnp.concatenate([self.state_norm(states_BTD), self.embedding_norm(embedded_BTD)], axis=-1)
        )


def run_without_norm(model: Transformer, stream: Stream, *, key: jax.Array | None = None) -> Hidden:
    """Runs the model without its final norm: its states are ``h0``."""
    embed_key, run_key = split_key(key, 2)
    x_BTD = model.embed(stream, key=embed_key)
    return model.run(x_BTD, stream.positions_BT, stream.mask, valid_BT=stream.valid_BT, final_norm=False, key=run_key)


def run_module(
    module: PredictionModule,
    model: Transformer,
    states_BTD: jax.Array,
    stream: Stream,
    tokens_BT: jax.Array,
    *,
    key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, Routing | None]:
    """Runs module k.

    Args:
      module: the module.
      model: the model whose embeddings it reads.
      states_BTD: ``h(k-1)``.
      stream: the model's input, for its positions and mask.
      tokens_BT: ``x_(i+k)`` at each position i.
      key: PRNG key of dropout; None for none.

    Returns:
      ``h(k)``, [B, T, D]; the normalised ``h(k)``, to which the unembedding is applied; and the expert statistics
      of the module's block.
    """
    embed_key, block_key = split_key(key, 2)
    embedded_BTD = model.embed(dataclasses.replace(stream, tokens_BT=tokens_BT), key=embed_key)
    hidden = model.run_block(
        module.block,
        module.joined(states_BTD, embedded_BTD),
        stream.positions_BT,
        stream.mask,
        layer=model.config.num_layers - 1,
        valid_BT=stream.valid_BT,
        key=block_key,
    )
    return hidden.states_BTD, module.head_norm(hidden.states_BTD), hidden.routing


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequentialMultiTokenLM(TokensAhead):
    """The next token by the model, and one more for each module after it."""

    num_heads: int = 2
    """Tokens predicted at each position: the first by the model itself, the others by a module each."""
    weight: Scalar = 0.3
    """Lambda, the weight of the modules' mean loss; may follow a schedule (DeepSeek-V3: 0.3, later 0.1)."""

    def __post_init__(self):
        super().__post_init__()
        if self.num_heads < 2:
            raise ValueError(f"objective.num_heads={self.num_heads}: must be at least 2, or use CausalLM")
        if min(extremes(self.weight)) < 0:
            raise ValueError(f"objective.weight={self.weight}: must not be negative")

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the model, with its ``prediction_modules`` as an extra."""
        transformer = Transformer(model, rngs=rngs)
        modules = nnx.List(PredictionModule(transformer, rngs=rngs) for _ in range(self.num_heads - 1))
        return WithExtras(transformer, prediction_modules=modules)

    def terms(self, model: WithExtras, batch: Batch, key: jax.Array | None) -> Terms:
        """Runs the model's head and then the modules', each with the fused loss: no head's logits exist as a whole."""
        key, *module_keys = split_key(key, self.num_heads)
        transformer, modules = model.model, model.extras["prediction_modules"]
        hidden = run_without_norm(transformer, batch.inputs, key=key)
        states_BTD, routings = hidden.states_BTD, [hidden.routing]
        losses = {"loss": self.token_loss(transformer, transformer.normalised(states_BTD), batch, 0)}
        for index, (name, module_key) in enumerate(zip(self.term_names[1:], module_keys, strict=True)):
            tokens_BT = batch.extras["targets_BTK"][:, :, index]
            states_BTD, hidden_BTD, routing = run_module(
                modules[index], transformer, states_BTD, batch.inputs, tokens_BT, key=module_key
            )
            losses[name] = self.token_loss(transformer, hidden_BTD, batch, index + 1)
            routings.append(routing)
        return Terms(losses, joined(routings))

    def coefficients(self) -> dict[str, float | jax.Array]:
        """Returns for each module lambda divided by the number of modules."""
        return dict.fromkeys(self.term_names[1:], current(self.weight) / (self.num_heads - 1))
