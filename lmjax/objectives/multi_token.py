"""Multi-token prediction: several heads, each naming a token further ahead (Gloeckle et al. 2024, section 2).

    loss = sum over k = 1..n of  mean over t of  - log p_k(x_(t+k) | x_<=t)

Head k is one transformer layer on the shared trunk, and all share the final norm and the unembedding.
The first head is the last layer of an ordinary model: without the others, it decodes as one.
"""

import dataclasses

import jax
from flax import nnx

from lmjax import masks
from lmjax.losses import linear_cross_entropy
from lmjax.models.cache import LayerCache
from lmjax.models.config import ModelConfig
from lmjax.models.layers import split_key
from lmjax.models.transformer import Block, Head, Transformer
from lmjax.objectives.base import Objective, token_weights
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, Stream, make_stream


class Unchanged(nnx.Module):
    """In the place of the trunk's final norm."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """``x``."""
        return x


class MultiTokenTransformer(nnx.Module):
    """A trunk of ``num_layers - 1`` layers and heads of one layer each.

    Called, or decoding, it is the next-token model of ``num_layers`` layers.
    """

    def __init__(self, config: ModelConfig, *, num_heads: int, rngs: nnx.Rngs):
        """Builds the trunk without its final norm, which comes after the heads."""
        self.config = config
        self.trunk = Transformer(dataclasses.replace(config, num_layers=config.num_layers - 1), rngs=rngs)
        self.final_norm = self.trunk.final_norm
        self.trunk.final_norm = Unchanged()  # type: ignore[assignment]
        keys = jax.random.split(rngs.params(), num_heads)
        self.heads = jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(params=key)))(keys)
        self.num_heads = num_heads

    def __call__(self, stream: Stream, *, key: jax.Array | None = None) -> jax.Array:
        """Hidden states of the next-token head, [B, T, D]."""
        trunk_key, head_key = split_key(key, 2)
        return self.ahead(self.trunk(stream, key=trunk_key), stream, 0, key=head_key)

    def ahead(self, trunk_BTD: jax.Array, stream: Stream, index: int, *, key: jax.Array | None) -> jax.Array:
        """Hidden states of head ``index`` (which names the token ``index + 1`` ahead), for the unembedding."""

        def apply(x_BTD: jax.Array, scanned):
            block, block_key = scanned
            bias = self.trunk._position_bias()
            return block(x_BTD, stream.positions_BT, self._mask(stream), position_bias=bias, key=block_key)[
                0
            ], None

        return self.final_norm(self.trunk._remat(apply)(trunk_BTD, (self._block(index), key))[0])

    def extend(
        self, stream: Stream, caches: tuple[LayerCache, ...]
    ) -> tuple[jax.Array, tuple[LayerCache, ...]]:
        """As :meth:`Transformer.extend`; the last cache is the next-token head's."""
        x_BTD, updated = self.trunk.extend(stream, caches[:-1])
        mask, bias = self._mask(stream, index_BT=stream.positions_BT), self.trunk._position_bias()
        x_BTD, written = self._block(0)(
            x_BTD, stream.positions_BT, mask, position_bias=bias, cache=caches[-1]
        )
        assert written is not None
        return self.final_norm(x_BTD), (*updated, written)

    def head(self) -> Head:
        """The unembedding all heads share."""
        return self.trunk.head()

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32 logits [..., V]."""
        return self.trunk.logits(hidden)

    def _block(self, index: int) -> Block:
        return jax.tree.map(lambda leaf: leaf[index], self.heads)

    def _mask(self, stream: Stream, index_BT: jax.Array | None = None) -> masks.IntervalMask:
        window = self.config.windows[(self.config.num_layers - 1) % len(self.config.windows)]
        return stream.mask if window is None else masks.windowed(stream.mask, window, index_BT=index_BT)


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
        targets, weights = {}, {}
        for ahead in range(1, self.num_heads + 1):
            name, there = _term(ahead), slice(ahead, ahead + length)
            targets[name], weights[name] = tokens_BS[:, there], weights_BS[:, there]
            if segments_BS is not None:
                weights[name] *= segments_BS[:, there] == segments_BS[:, :length]
        segments_BT = None if segments_BS is None else segments_BS[:, :length]
        return Batch(
            inputs=make_stream(tokens_BS[:, :length], segments_BT, "causal"),
            targets_BP=targets.pop("loss"),
            weights=weights,
            extras=targets,
        )

    def terms(
        self, model: MultiTokenTransformer, batch: Batch, key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """One head after the other, each through the fused loss: no head's logits exist whole."""
        trunk_key, *head_keys = split_key(key, 1 + self.num_heads)
        trunk_BTD = model.trunk(batch.inputs, key=trunk_key)
        head = model.head()
        targets = {"loss": batch.targets_BP, **batch.extras}
        losses = {}
        for index, head_key in enumerate(head_keys):
            name = _term(index + 1)
            hidden_BTD = model.ahead(trunk_BTD, batch.inputs, index, key=head_key)
            losses[name] = linear_cross_entropy(
                hidden_BTD,
                head.weight_DV,
                targets[name],
                batch.weights[name],
                bias=head.bias_V,
                softcap=head.softcap,
            )
        return losses


def _term(ahead: int) -> str:
    return "loss" if ahead == 1 else f"token_{ahead}"
