"""Multi-token prediction: several heads, each naming a token further ahead (Gloeckle et al. 2024, section 2).

    loss = sum over k = 1..n of  mean over t of  - log p_k(x_(t+k) | x_<=t)

Head k is one transformer layer on the shared trunk, and all share the final norm and the unembedding.
The first head is the last layer of an ordinary model: without the others, it decodes as one.

Axes: S positions of a row with the tokens ahead.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.masks import IntervalMask
from lmjax.models.config import ModelConfig
from lmjax.models.hidden import Hidden
from lmjax.models.layers import split_key
from lmjax.models.routing import joined
from lmjax.models.transformer import Transformer
from lmjax.objectives.parts.objective import Objective, Terms, Traits
from lmjax.objectives.parts.token_objective import head_loss, token_weights
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, Stream, make_stream


class MultiTokenTransformer(Transformer):
    """An ordinary transformer, whose last layer is the first head, and the further heads."""

    def __init__(self, config: ModelConfig, *, num_heads: int, rngs: nnx.Rngs):
        """Builds the layers, the last of them outside of any stack, and ``num_heads - 1`` more."""
        super().__init__(dataclasses.replace(config, num_layers=config.num_layers - 1), rngs=rngs)
        self.config = config
        self.tail.append(self.new_block(rngs, layer=config.num_layers - 1))
        self.further_heads = nnx.data(
            self.new_stack(num_heads - 1, rngs, layer=config.num_layers - 1) if num_heads > 1 else None
        )

    def __call__(
        self,
        stream: Stream,
        *,
        encoder: Stream | None = None,
        cross_mask: IntervalMask | None = None,
        key: jax.Array | None = None,
    ) -> Hidden:
        """Runs the trunk and the next-token head."""
        assert encoder is None and cross_mask is None, "the heads are on a single stack"
        trunk_key, head_key = split_key(key, 2)
        trunk = self.trunk(stream, key=trunk_key)
        hidden = self.ahead(trunk.states_BTD, stream, 0, key=head_key)
        return Hidden(hidden.states_BTD, joined([trunk.routing, hidden.routing]))

    def trunk(self, stream: Stream, *, key: jax.Array | None = None) -> Hidden:
        """Runs what the heads start from: all layers but the last, without the final norm."""
        trunk = nnx.clone(self)
        trunk.config = dataclasses.replace(self.config, num_layers=self.config.num_layers - 1)
        trunk.tail = nnx.List(trunk.tail[:-1])
        embed_key, run_key = split_key(key, 2)
        x_BTD = trunk.embed(stream, key=embed_key)
        return trunk.run(
            x_BTD, stream.positions_BT, stream.mask, valid_BT=stream.valid_BT, final_norm=False, key=run_key
        )

    def ahead(self, trunk_BTD: jax.Array, stream: Stream, index: int, *, key: jax.Array | None = None) -> Hidden:
        """Runs the layer of head ``index``, which predicts the token ``index + 1`` ahead, and the final norm."""
        block = self.tail[-1] if index == 0 else jax.tree.map(lambda leaf: leaf[index - 1], self.further_heads)
        layer = self.config.num_layers - 1
        hidden = self.run_block(
            block, trunk_BTD, stream.positions_BT, stream.mask, layer=layer, valid_BT=stream.valid_BT, key=key
        )
        return Hidden(self.normalised(hidden.states_BTD), hidden.routing)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokensAhead(Objective):
    """The next token (term ``loss``) and those after it (``token_2``, ``token_3``, ...); the rows' part."""

    num_heads: int = 4
    """Tokens predicted at each position."""

    def __post_init__(self):
        super().__post_init__()
        if self.num_heads < 1:
            raise ValueError(f"objective.num_heads={self.num_heads}: must be at least 1")

    @property
    def traits(self) -> Traits:
        """The term ``loss`` is of tokens of text."""
        return Traits(text_term="loss")

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses rows shorter than the heads look ahead."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        if self.num_heads > sequence_length:
            raise ValueError(
                f"objective.num_heads={self.num_heads} is more than train.sequence_length={sequence_length}: "
                f"lower it, or train on longer rows"
            )

    def row_length(self, sequence_length: int) -> int:
        """T inputs, and the tokens the last of them is to name."""
        return sequence_length + self.num_heads

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Shifts once for each head; a target counts when it is of the input's own document."""
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
        """The terms, by how far ahead they look."""
        return ["loss", *(f"token_{ahead}" for ahead in range(2, self.num_heads + 1))]

    def token_loss(self, model: Transformer, hidden_BTD: jax.Array, batch: Batch, index: int) -> jax.Array:
        """The sum of the weighted losses of naming the token ``index + 1`` ahead."""
        targets_BT, weights_BT = batch.extras["targets_BTK"][:, :, index], batch.weights[self.term_names[index]]
        return head_loss(model, model.head_states(hidden_BTD), targets_BT, weights_BT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTokenLM(TokensAhead):
    """Heads that are independent of each other, on one trunk; `model.num_layers` counts the first of them."""

    additions: ClassVar[tuple[str, ...]] = ("further_heads",)

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a model with no layer left for the trunk, and rows shorter than the heads look ahead."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        if model.num_layers < 2:
            raise ValueError(
                f"model.num_layers={model.num_layers}: the last layer is MultiTokenLM's first head and the trunk "
                f"needs another: set it to at least 2"
            )

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Trunk and heads."""
        return MultiTokenTransformer(model, num_heads=self.num_heads, rngs=rngs)

    def terms(self, model: MultiTokenTransformer, batch: Batch, key: jax.Array | None) -> Terms:
        """One head after the other, each through the fused loss: no head's logits exist whole."""
        trunk_key, *head_keys = split_key(key, 1 + self.num_heads)
        trunk = model.trunk(batch.inputs, key=trunk_key)
        losses, routings = {}, [trunk.routing]
        for index, (name, head_key) in enumerate(zip(self.term_names, head_keys, strict=True)):
            hidden = model.ahead(trunk.states_BTD, batch.inputs, index, key=head_key)
            losses[name] = self.token_loss(model, hidden.states_BTD, batch, index)
            routings.append(hidden.routing)
        return Terms(losses, joined(routings))
