"""Multi-token prediction: several heads, each naming a token further ahead (Gloeckle et al. 2024, section 2).

    loss = sum over k = 1..n of  mean over t of  - log p_k(x_(t+k) | x_<=t)

Head k is one transformer layer on the shared trunk, and all share the final norm and the unembedding.
The first head is the last layer of an ordinary model: without the others, it decodes as one.

Axes: S positions of a row with the tokens ahead.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.models.block import Block
from lmjax.models.config import ModelConfig
from lmjax.models.hidden import Hidden
from lmjax.models.layers import split_key
from lmjax.models.routing import joined
from lmjax.models.transformer import Transformer
from lmjax.models.with_extras import extra_of, model_of, with_extras
from lmjax.objectives.parts.objective import Objective, Terms, Traits
from lmjax.objectives.parts.token_objective import head_loss, token_weights
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, Stream, make_stream


def transformer_with_last_apart(config: ModelConfig, *, rngs: nnx.Rngs) -> Transformer:
    """Returns a transformer whose last layer is outside of the scanned stacks, so that it can run without it."""
    model = Transformer(dataclasses.replace(config, num_layers=config.num_layers - 1), rngs=rngs)
    model.config = config
    model.tail.append(model.new_block(rngs, layer=config.num_layers - 1))
    return model


def run_trunk(model: Transformer, stream: Stream, *, key: jax.Array | None = None) -> Hidden:
    """Runs all layers but the last, without the final norm: the heads start from these states."""
    embed_key, run_key = split_key(key, 2)
    x_BTD = model.embed(stream, key=embed_key)
    return model.run(
        x_BTD,
        stream.positions_BT,
        stream.mask,
        valid_BT=stream.valid_BT,
        skip_last=1,
        final_norm=False,
        key=run_key,
    )


def run_head(
    model: Transformer, block: Block, trunk_BTD: jax.Array, stream: Stream, *, key: jax.Array | None = None
) -> Hidden:
    """Runs the layer of a head on the trunk's states, and the final norm."""
    hidden = model.run_block(
        block,
        trunk_BTD,
        stream.positions_BT,
        stream.mask,
        layer=model.config.num_layers - 1,
        valid_BT=stream.valid_BT,
        key=key,
    )
    return Hidden(model.normalised(hidden.states_BTD), hidden.routing)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokensAhead(Objective):
    """Targets of the next token (term ``loss``) and of those after it (``token_2``, ``token_3``, ...)."""

    num_heads: int = 4
    """Number of tokens predicted at each position."""

    def __post_init__(self):
        super().__post_init__()
        if self.num_heads < 1:
            raise ValueError(f"objective.num_heads={self.num_heads}: must be at least 1")

    @property
    def traits(self) -> Traits:
        """The term ``loss`` is of tokens of text, of which each position predicts several."""
        return Traits(text_term="loss", predictions=self.num_heads)

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses rows shorter than the heads look ahead."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        if self.num_heads > sequence_length:
            raise ValueError(
                f"objective.num_heads={self.num_heads} is more than train.sequence_length={sequence_length}: "
                f"lower it, or train on longer rows"
            )

    def row_length(self, sequence_length: int) -> int:
        """Returns T inputs and the tokens to be predicted at the last of them."""
        return sequence_length + self.num_heads

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Shifts the rows once for each head. A target counts if it is in the same document as the input."""
        del key, vocabulary
        tokens_BS, weights_BS, segments_BS = rows.tokens_BT, token_weights(rows), rows.segments_BT
        length = tokens_BS.shape[1] - self.num_heads
        targets, weights = [], {}
        for name, ahead in zip(self.term_names, range(1, self.num_heads + 1), strict=True):
            there = slice(ahead, ahead + length)
            targets.append(tokens_BS[:, there])
            weights[name] = weights_BS[:, there]
            if segments_BS is not None:
                weights[name] *= segments_BS[:, there] == segments_BS[:, :length]
        segments_BT = None if segments_BS is None else segments_BS[:, :length]
        return Batch(
            inputs=make_stream(tokens_BS[:, :length], segments_BT, "causal"),
            targets_BP=targets[0],
            weights=weights,
            extras={"targets_BTK": jnp.stack(targets, axis=-1)},
        )

    @property
    def term_names(self) -> list[str]:
        """The names of the terms, by how far ahead they predict."""
        return ["loss", *(f"token_{ahead}" for ahead in range(2, self.num_heads + 1))]

    def token_loss(self, model: Transformer, hidden_BTD: jax.Array, batch: Batch, index: int) -> jax.Array:
        """Returns the sum of the weighted losses of predicting the token ``index + 1`` ahead."""
        targets_BT, weights_BT = batch.extras["targets_BTK"][:, :, index], batch.weights[self.term_names[index]]
        return head_loss(model, model.head_states(hidden_BTD), targets_BT, weights_BT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTokenLM(TokensAhead):
    """Heads that are independent of each other, on one trunk; `model.num_layers` counts the first of them."""

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a model with no layer left for the trunk, and rows shorter than the heads look ahead."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        if model.num_layers < 2:
            raise ValueError(
                f"model.num_layers={model.num_layers}: the last layer is MultiTokenLM's first head and the trunk "
                f"needs another: set it to at least 2"
            )
        if model.share_layers:
            raise ValueError(
                "model.share_layers=True: each head of MultiTokenLM is a layer of its own: set it to False"
            )

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the model, whose last layer is the first head, with the ``further_heads`` as an extra."""
        transformer = transformer_with_last_apart(model, rngs=rngs)
        heads = None
        if self.num_heads > 1:
            heads = transformer.new_stack(self.num_heads - 1, rngs, layer=model.num_layers - 1)
        return with_extras(transformer, further_heads=heads)

    def terms(self, model: nnx.Module, batch: Batch, key: jax.Array | None) -> Terms:
        """Runs one head after the other, each with the fused loss, so that a head's logits never exist as a whole."""
        trunk_key, *head_keys = split_key(key, 1 + self.num_heads)
        transformer, further_heads = model_of(model), extra_of(model, "further_heads")
        trunk = run_trunk(transformer, batch.inputs, key=trunk_key)
        losses, routings = {}, [trunk.routing]
        for index, (name, head_key) in enumerate(zip(self.term_names, head_keys, strict=True)):
            block = transformer.tail[-1]
            if index > 0:
                block = jax.tree.map(lambda leaf, place=index - 1: leaf[place], further_heads)
            hidden = run_head(transformer, block, trunk.states_BTD, batch.inputs, key=head_key)
            losses[name] = self.token_loss(transformer, hidden.states_BTD, batch, index)
            routings.append(hidden.routing)
        return Terms(losses, joined(routings))
