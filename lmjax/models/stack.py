"""A stack of blocks: embedded sequence in, hidden states out.

With ``scan_layers`` the blocks are stacked along a leading axis and scanned, so compile time does not
grow with depth. Layers that differ (windows) repeat as a pattern: one such stack for each of its
places, what the pattern leaves over unrolled in ``tail``.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax import masks
from lmjax.kernels.position_bias import AlibiBias, PositionBias, RelativeBias, alibi_slopes
from lmjax.masks import IntervalMask
from lmjax.models.block import Block
from lmjax.models.cache import Cache, LayerCache
from lmjax.models.config import ModelConfig
from lmjax.models.layers import make_norm, parameter, split_key

_REMAT_POLICIES = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}


class Stack(nnx.Module):
    """Blocks, the position bias they share, and the norm after them."""

    def __init__(self, config: ModelConfig, *, source_width: int | None = None, rngs: nnx.Rngs):
        """Builds all blocks; ``source_width`` is the width of the states cross attention reads, if there is any."""
        self.config = config
        self.source_width = source_width
        if config.share_layers:
            num_stacks, groups, num_tail = 0, 0, 1
        else:
            groups = config.num_layers // config.period if config.scan_layers else 0
            num_stacks = config.period if groups else 0
            num_tail = config.num_layers - groups * config.period
        self.stacks = nnx.List(self.new_stack(groups, rngs, layer=layer) for layer in range(num_stacks))
        self.tail = nnx.List(self.new_block(rngs, layer=layer) for layer in range(num_tail))
        if config.positions == "relative":
            std = 1 / config.width**0.5 if config.init_std is None else config.init_std
            table_RN = std * jax.random.normal(rngs.params(), (config.relative_buckets, config.num_heads))
            self.relative_RN = parameter(table_RN, ("buckets", "heads"), "position")
        self.final_norm = nnx.data(make_norm(config) if config.final_norm else None)

    def new_block(self, rngs: nnx.Rngs, *, layer: int) -> Block:
        """A block as layer ``layer`` is."""
        mixer = self.config.mixers[layer % len(self.config.mixers)]
        return Block(self.config, mixer=mixer, source_width=self.source_width, rngs=rngs)

    def new_stack(self, groups: int, rngs: nnx.Rngs, *, layer: int) -> Block:
        """Blocks along a leading axis of every parameter."""
        keys = jax.random.split(rngs.params(), groups)
        return jax.vmap(lambda key: self.new_block(nnx.Rngs(params=key), layer=layer))(keys)

    def run(
        self,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        mask: IntervalMask,
        *,
        source_BSD: jax.Array | None = None,
        cross_mask: IntervalMask | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states after the final norm, [B, T, D]; arguments as of :meth:`run_blocks`."""
        return self.normalised(
            self.run_blocks(x_BTD, positions_BT, mask, source_BSD=source_BSD, cross_mask=cross_mask, key=key)
        )

    def run_blocks(
        self,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        mask: IntervalMask,
        *,
        source_BSD: jax.Array | None = None,
        cross_mask: IntervalMask | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """The residual stream after the last block, [B, T, D].

        Args:
          x_BTD: the embedded sequence: of tokens, or of any other features.
          positions_BT: int32 position of each element.
          mask: who sees whom.
          source_BSD: the encoder's states, where the stack has cross attention.
          cross_mask: which of them each position sees.
          key: PRNG key of dropout; None for none.
        """
        layer_masks = [_windowed(mask, window) for window in self.config.windows]
        bias = self.position_bias()

        def apply(block: Block, x_BTD: jax.Array, layer: int, is_first, key: jax.Array | None) -> jax.Array:
            return block(
                x_BTD,
                positions_BT,
                layer_masks[layer % len(layer_masks)],
                local=self.config.windows[layer % len(layer_masks)] is not None,
                is_first=is_first,
                position_bias=bias,
                source=source_BSD,
                cross_mask=cross_mask,
                key=key,
            )[0]

        scan_key, tail_key = split_key(key, 2)
        if self.config.share_layers:
            return self._repeat(apply, x_BTD, scan_key)

        def group(x_BTD: jax.Array, scanned) -> tuple[jax.Array, None]:
            blocks, is_first, key = scanned
            for layer, (block, block_key) in enumerate(zip(blocks, split_key(key, len(blocks)), strict=True)):
                x_BTD = apply(block, x_BTD, layer, is_first if layer == 0 else False, block_key)
            return x_BTD, None

        if self.stacks:
            num_groups = self.config.num_layers // len(self.stacks)
            keys = None if scan_key is None else jax.random.split(scan_key, num_groups)
            is_first = jnp.arange(num_groups) == 0
            x_BTD, _ = jax.lax.scan(self._remat(group), x_BTD, (list(self.stacks), is_first, keys))
        for layer, (block, block_key) in enumerate(zip(self.tail, split_key(tail_key, len(self.tail)), strict=True)):
            leads = layer == 0 and not self.stacks

            def body(x_BTD: jax.Array, scanned, layer=layer, is_first=leads) -> tuple[jax.Array, None]:
                return apply(scanned[0], x_BTD, layer, is_first, scanned[1]), None

            x_BTD, _ = self._remat(body)(x_BTD, (block, block_key))
        return x_BTD

    def run_block(
        self,
        block: Block,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        mask: IntervalMask,
        *,
        layer: int,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """The residual stream after one more block that is as layer ``layer`` is; for heads of layers of their own."""
        window = self.config.windows[layer % len(self.config.windows)]
        bias, layer_mask = self.position_bias(), _windowed(mask, window)

        def body(x_BTD: jax.Array, scanned) -> tuple[jax.Array, None]:
            block, key = scanned
            return block(x_BTD, positions_BT, layer_mask, local=window is not None, position_bias=bias, key=key)[
                0
            ], None

        return self._remat(body)(x_BTD, (block, key))[0]

    def _repeat(self, apply, x_BTD: jax.Array, key: jax.Array | None) -> jax.Array:
        """The one block of a stack that shares it, as often as the stack is deep."""
        num_layers = self.config.num_layers

        def body(x_BTD: jax.Array, scanned) -> tuple[jax.Array, None]:
            is_first, key = scanned
            return apply(self.tail[0], x_BTD, 0, is_first, key), None

        keys = None if key is None else jax.random.split(key, num_layers)
        return jax.lax.scan(self._remat(body), x_BTD, (jnp.arange(num_layers) == 0, keys))[0]

    def run_cached(
        self,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        mask: IntervalMask,
        caches: tuple[Cache, ...],
        *,
        sources: tuple[LayerCache, ...] | None = None,
        cross_mask: IntervalMask | None = None,
    ) -> tuple[jax.Array, tuple[Cache, ...]]:
        """Hidden states of new elements against cached ones, for decoding.

        Args:
          x_BTD: the new elements, embedded.
          positions_BT: their positions, which are also the cache slots they are written to.
          mask: intervals over slots.
          caches: one for each layer.
          sources: what cross attention reads, one for each layer, see :meth:`remember`.
          cross_mask: intervals over the source.
        """
        bias = self.position_bias()
        updated = []
        for layer, (block, cache) in enumerate(zip(self.layers(), caches, strict=True)):
            window = self.config.windows[layer % len(self.config.windows)]
            x_BTD, written = block(
                x_BTD,
                positions_BT,
                _windowed(mask, window, positions_BT),
                local=window is not None,
                is_first=layer == 0,
                position_bias=bias,
                source=None if sources is None else sources[layer],
                cross_mask=cross_mask,
                cache=cache,
            )
            assert written is not None
            updated.append(written)
        return self.normalised(x_BTD), tuple(updated)

    def remember(self, source_BSD: jax.Array) -> tuple[LayerCache, ...]:
        """Each layer's cross-attention keys and values of the encoder's states, for :meth:`run_cached`."""
        return tuple(block.cross_attention.remember(source_BSD) for block in self.layers())

    def layers(self) -> list[Block]:
        """The blocks in order of depth, scanned ones taken out of their stacks."""
        if self.config.share_layers:
            return [self.tail[0]] * self.config.num_layers
        period = len(self.stacks)
        num_scanned = self.config.num_layers - len(self.tail)
        scanned = [
            jax.tree.map(lambda leaf, group=layer // period: leaf[group], self.stacks[layer % period])
            for layer in range(num_scanned)
        ]
        return [*scanned, *self.tail]

    def position_bias(self) -> PositionBias | None:
        """What all layers add to their attention logits."""
        config = self.config
        if config.positions == "alibi":
            return AlibiBias(slopes_N=jnp.array(alibi_slopes(config.num_heads), jnp.float32))
        if config.positions == "relative":
            return RelativeBias(
                table_RN=self.relative_RN[...],
                max_distance=config.relative_max_distance,
                past_only=config.relative_past_only,
            )
        return None

    def normalised(self, x_BTD: jax.Array) -> jax.Array:
        """The residual stream through the final norm, if there is one."""
        return x_BTD if self.final_norm is None else self.final_norm(x_BTD)

    def _remat(self, body):
        if self.config.remat == "none":
            return body
        return jax.checkpoint(body, prevent_cse=False, policy=_REMAT_POLICIES[self.config.remat])


def _windowed(mask: IntervalMask, window: int | None, index_BT: jax.Array | None = None) -> IntervalMask:
    return mask if window is None else masks.windowed(mask, window, index_BT=index_BT)
