"""Multi-token prediction: several heads, each naming a token further ahead (Gloeckle et al. 2024, section 2).

    loss = sum over k = 1..n of  mean over t of  - log p_k(x_(t+k) | x_<=t)

Head k is one transformer layer on the shared trunk, and all share the final norm and the unembedding.
The first head is the last layer of an ordinary model: without the others, it decodes as one.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax.losses import linear_cross_entropy
from lmjax.models.config import ModelConfig
from lmjax.models.layers import split_key
from lmjax.models.transformer import Block, Transformer
from lmjax.objectives.base import Objective, token_weights
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, Stream, make_stream


class Unchanged(nnx.Module):
    """In the place of the trunk's final norm."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """``x``."""
        return x


class MultiTokenTransformer(Transformer):
    """An ordinary transformer, whose last layer is the first head, and the further heads."""

    def __init__(self, config: ModelConfig, *, num_heads: int, rngs: nnx.Rngs):
        """Builds the layers, the last of them outside of any stack, and ``num_heads - 1`` more."""
        super().__init__(dataclasses.replace(config, num_layers=config.num_layers - 1), rngs=rngs)
        self.config = config
        self.tail.append(Block(config, rngs=rngs))
        self.further_heads = nnx.data(self._stack(num_heads - 1, rngs) if num_heads > 1 else None)

    def __call__(self, stream: Stream, *, key: jax.Array | None = None) -> jax.Array:
        """Hidden states of the next-token head, [B, T, D]."""
        trunk_key, head_key = split_key(key, 2)
        return self.ahead(self.trunk(stream, key=trunk_key), stream, 0, key=head_key)

    def trunk(self, stream: Stream, *, key: jax.Array | None = None) -> jax.Array:
        """What the heads start from: the states before the last layer, not normalised, [B, T, D]."""
        trunk = nnx.clone(self)
        trunk.config = dataclasses.replace(self.config, num_layers=self.config.num_layers - 1)
        trunk.tail = nnx.List(trunk.tail[:-1])
        trunk.final_norm = Unchanged()  # type: ignore[assignment]
        return Transformer.__call__(trunk, stream, key=key)

    def ahead(self, trunk_BTD: jax.Array, stream: Stream, index: int, *, key: jax.Array | None = None) -> jax.Array:
        """Hidden states of head ``index``, which names the token ``index + 1`` ahead, for the unembedding."""
        window = self.config.windows[(self.config.num_layers - 1) % len(self.config.windows)]
        mask, bias = self._windowed(stream.mask, window), self._position_bias()

        def apply(x_BTD: jax.Array, scanned):
            block, block_key = scanned
            return block(x_BTD, stream.positions_BT, mask, position_bias=bias, key=block_key)[0], None

        block = self.tail[-1] if index == 0 else jax.tree.map(lambda leaf: leaf[index - 1], self.further_heads)
        return self.final_norm(self._remat(apply)(trunk_BTD, (block, key))[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiTokenLM(Objective):
    """The next token (term ``loss``) and those after it (``token_2``, ``token_3``, ...)."""

    num_heads: int = 4
    """Tokens predicted at each position; `model.num_layers` counts one head, the others come on top."""

    def __post_init__(self):
        if self.num_heads < 1:
            raise ValueError(f"objective.num_heads={self.num_heads}: must be at least 1")

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a model with no layer left for the trunk, and rows shorter than the heads look ahead."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        if model.num_layers < 2:
            raise ValueError(
                f"model.num_layers={model.num_layers}: the last layer is MultiTokenLM's first head and the trunk "
                f"needs another: set it to at least 2"
            )
        if self.num_heads > sequence_length:
            raise ValueError(
                f"objective.num_heads={self.num_heads} is more than train.sequence_length={sequence_length}: "
                f"lower it, or train on longer rows"
            )

    def build(self, model: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        """Trunk and heads."""
        return MultiTokenTransformer(model, num_heads=self.num_heads, rngs=rngs)

    def row_length(self, sequence_length: int) -> int:
        """T inputs, and the tokens the last of them is to name."""
        return sequence_length + self.num_heads

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Shifts once for each head; a target counts when it is of the input's own document."""
        del key, vocabulary
        tokens_BS, weights_BS, segments_BS = rows.tokens_BT, token_weights(rows), rows.segments_BT
        length = tokens_BS.shape[1] - self.num_heads
        targets, weights = [], {}
        for ahead in range(1, self.num_heads + 1):
            name, there = _term(ahead), slice(ahead, ahead + length)
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

    def terms(self, model: MultiTokenTransformer, batch: Batch, key: jax.Array | None) -> dict[str, jax.Array]:
        """One head after the other, each through the fused loss: no head's logits exist whole."""
        trunk_key, *head_keys = split_key(key, 1 + self.num_heads)
        trunk_BTD = model.trunk(batch.inputs, key=trunk_key)
        head = model.head()
        losses = {}
        for index, head_key in enumerate(head_keys):
            name = _term(index + 1)
            hidden_BTD = model.ahead(trunk_BTD, batch.inputs, index, key=head_key)
            losses[name] = linear_cross_entropy(
                hidden_BTD,
                head.weight_DV,
                batch.extras["targets_BTK"][:, :, index],
                batch.weights[name],
                bias=head.bias_V,
                softcap=head.softcap,
            )
        return losses


def _term(ahead: int) -> str:
    return "loss" if ahead == 1 else f"token_{ahead}"
