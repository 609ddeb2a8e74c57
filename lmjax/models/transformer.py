"""The transformer: token stream in, hidden states out; the head is applied by the loss.

``hidden_BTD = model(stream)`` works for every mask a :class:`~lmjax.types.Stream` can carry, so a
causal decoder, a bidirectional encoder and a prefix LM are the same parameters under another mask.
Blocks are pre-norm (Xiong et al. 2020): ``x + f(norm(x))``. With ``scan_layers`` the blocks are
stacked along a leading axis and scanned: compile time does not grow with depth.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax import masks
from lmjax.kernels.position_bias import AlibiBias, alibi_slopes
from lmjax.masks import IntervalMask
from lmjax.models.attention import Attention
from lmjax.models.cache import LayerCache
from lmjax.models.config import ModelConfig
from lmjax.models.layers import Embedding, FeedForward, dropout, make_norm, parameter, split_key
from lmjax.models.positions import sinusoidal
from lmjax.parallel.mesh import constrain
from lmjax.types import Stream


class Block(nnx.Module):
    """Attention and feed-forward, each on a normalised copy and added back."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Builds both sublayers."""
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, rngs=rngs)
        self.feedforward_norm = make_norm(config)
        self.feedforward = FeedForward(config, rngs=rngs)
        self.dropout = config.dropout

    def __call__(
        self,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        mask: IntervalMask,
        *,
        position_bias=None,
        cache: LayerCache | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, LayerCache | None]:
        """[B, T, D] to [B, T, D], and the updated cache; arguments as of :class:`Attention`."""
        attention_key, first_key, second_key = split_key(key, 3)
        attended_BTD, cache = self.attention(
            self.attention_norm(x_BTD),
            positions_BT,
            mask,
            position_bias=position_bias,
            cache=cache,
            key=attention_key,
        )
        x_BTD = x_BTD + dropout(attended_BTD, self.dropout, first_key)
        fed_BTD = self.feedforward(self.feedforward_norm(x_BTD))
        x_BTD = x_BTD + dropout(fed_BTD, self.dropout, second_key)
        return constrain(x_BTD, "batch", None, None), cache


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Head:
    """The map from hidden states to logits, as arrays a fused loss can take apart."""

    weight_DV: jax.Array
    bias_V: jax.Array | None
    softcap: float | None = dataclasses.field(metadata={"static": True})


_REMAT_POLICIES = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}


class Transformer(nnx.Module):
    """Embedding, blocks, final norm and head of one stack."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """Initialises all parameters.

        Args:
          config: the architecture, its ``vocab_size`` resolved.
          rngs: one key, under ``params``.
        """
        assert config.vocab_size > 0, "resolve the configuration with ModelConfig.with_vocabulary first"
        self.config = config
        std = config.width**-0.5 if config.init_std is None else config.init_std
        self.embedding = Embedding(config.vocab_size, config.width, axes=("vocab", "embed"), std=std, rngs=rngs)
        self.position_embedding = nnx.data(
            Embedding(config.max_length, config.width, axes=("positions", "embed"), std=std, rngs=rngs)
            if config.positions == "learned"
            else None
        )
        period = len(config.windows)
        groups = config.num_layers // period if config.scan_layers else 0
        self.stacks = nnx.List(self._stack(groups, rngs) for _ in range(period if groups else 0))
        self.tail = nnx.List(Block(config, rngs=rngs) for _ in range(config.num_layers - groups * period))
        self.final_norm = make_norm(config)
        head_shape = (config.width, config.vocab_size)
        self.head_weight_DV = nnx.data(
            None
            if config.tie_embeddings
            else parameter(std * jax.random.normal(rngs.params(), head_shape), ("embed", "vocab"), "matrix")
        )
        self.head_bias_V = nnx.data(
            parameter(jnp.zeros((config.vocab_size,)), ("vocab",), "bias") if config.head_bias else None
        )

    def _stack(self, groups: int, rngs: nnx.Rngs) -> Block:
        keys = jax.random.split(rngs.params(), groups)
        return jax.vmap(lambda key: Block(self.config, rngs=nnx.Rngs(params=key)))(keys)

    def __call__(self, stream: Stream, *, key: jax.Array | None = None) -> jax.Array:
        """Hidden states after the final norm.

        Args:
          stream: tokens, positions and mask.
          key: PRNG key of dropout; None for none.

        Returns:
          [B, T, D] in ``config.dtype``.
        """
        embed_key, scan_key, tail_key = split_key(key, 3)
        x_BTD = dropout(self.embed(stream), self.config.dropout, embed_key)
        layer_masks = [self._windowed(stream.mask, window) for window in self.config.windows]
        bias = self._position_bias()

        def apply(block: Block, x_BTD: jax.Array, layer: int, key: jax.Array | None) -> jax.Array:
            mask = layer_masks[layer % len(layer_masks)]
            return block(x_BTD, stream.positions_BT, mask, position_bias=bias, key=key)[0]

        def group(x_BTD: jax.Array, scanned) -> tuple[jax.Array, None]:
            blocks, key = scanned
            for layer, (block, block_key) in enumerate(zip(blocks, split_key(key, len(blocks)), strict=True)):
                x_BTD = apply(block, x_BTD, layer, block_key)
            return x_BTD, None

        if self.stacks:
            num_groups = self.config.num_layers // len(self.stacks)
            keys = None if scan_key is None else jax.random.split(scan_key, num_groups)
            x_BTD, _ = jax.lax.scan(self._remat(group), x_BTD, (list(self.stacks), keys))
        for layer, (block, block_key) in enumerate(zip(self.tail, split_key(tail_key, len(self.tail)), strict=True)):
            x_BTD, _ = self._remat(lambda x, scanned, layer=layer: (apply(scanned[0], x, layer, scanned[1]), None))(
                x_BTD, (block, block_key)
            )
        return self.final_norm(x_BTD)

    def extend(self, stream: Stream, caches: tuple[LayerCache, ...]) -> tuple[jax.Array, tuple[LayerCache, ...]]:
        """Hidden states of new tokens against cached ones, for decoding.

        Args:
          stream: the new tokens; ``positions_BT`` are also the cache slots they are written to, and
            the mask's intervals are over slots.
          caches: one for each layer, see :func:`lmjax.models.cache.empty_cache`.

        Returns:
          [B, T, D], and the caches with the new keys and values.
        """
        x_BTD = self.embed(stream)
        bias = self._position_bias()
        updated = []
        for layer, (block, cache) in enumerate(zip(self.layers(), caches, strict=True)):
            window = self.config.windows[layer % len(self.config.windows)]
            mask = self._windowed(stream.mask, window, stream.positions_BT)
            x_BTD, written = block(x_BTD, stream.positions_BT, mask, position_bias=bias, cache=cache)
            assert written is not None
            updated.append(written)
        return self.final_norm(x_BTD), tuple(updated)

    def layers(self) -> list[Block]:
        """The blocks in order of depth, scanned ones taken out of their stacks."""
        period = len(self.stacks)
        num_scanned = self.config.num_layers - len(self.tail)
        scanned = [
            jax.tree.map(lambda leaf, group=layer // period: leaf[group], self.stacks[layer % period])
            for layer in range(num_scanned)
        ]
        return [*scanned, *self.tail]

    def embed(self, stream: Stream) -> jax.Array:
        """Token embeddings plus absolute positions, [B, T, D]."""
        dtype = self.config.dtype
        x_BTD = self.embedding(stream.tokens_BT, dtype)
        if self.position_embedding is not None:
            x_BTD = x_BTD + self.position_embedding(stream.positions_BT, dtype)
        elif self.config.positions == "sinusoidal":
            x_BTD = x_BTD + sinusoidal(stream.positions_BT, self.config.width).astype(dtype)
        return constrain(x_BTD, "batch", None, None)

    def head(self) -> Head:
        """The output map, tied or not, in float32, so that a loss can sum its gradient in float32."""
        weight_DV = self.embedding.table_VD[...].T if self.head_weight_DV is None else self.head_weight_DV[...]
        bias_V = None if self.head_bias_V is None else self.head_bias_V[...]
        return Head(weight_DV, bias_V, self.config.logit_softcap)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32 logits [..., V]; for decoding and small tests (losses use :meth:`head` instead)."""
        head = self.head()
        weight_DV = head.weight_DV.astype(hidden.dtype)
        logits = jnp.tensordot(hidden, weight_DV, axes=1, preferred_element_type=jnp.float32)
        if head.bias_V is not None:
            logits = logits + head.bias_V.reshape((1,) * (logits.ndim - 1) + (-1,))
        return logits if head.softcap is None else head.softcap * jnp.tanh(logits / head.softcap)

    def _windowed(self, mask: IntervalMask, window: int | None, index_BT: jax.Array | None = None) -> IntervalMask:
        return mask if window is None else masks.windowed(mask, window, index_BT=index_BT)

    def _position_bias(self) -> AlibiBias | None:
        if self.config.positions != "alibi":
            return None
        return AlibiBias(slopes_N=jnp.array(alibi_slopes(self.config.num_heads), jnp.float32))

    def _remat(self, body):
        if self.config.remat == "none":
            return body
        return jax.checkpoint(body, prevent_cse=False, policy=_REMAT_POLICIES[self.config.remat])
