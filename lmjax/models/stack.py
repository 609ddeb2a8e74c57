"""A stack of blocks, which maps an embedded sequence to hidden states.

With ``execution.scan_layers`` the blocks are stacked along a leading axis and scanned, so compile time does not
grow with depth. Layers that differ (windows, mixers, experts) repeat as a pattern, and each place in the pattern has
such a stack. The layers before the pattern are in ``lead``, those after its last whole repetition in ``tail``; both are
unrolled.

Axes: M positions before the row, R buckets of distances.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from lmjax import masks
from lmjax.kernels.attention.position_bias import AlibiBias, PositionBias, alibi_slopes
from lmjax.masks import IntervalMask
from lmjax.models.block import Block
from lmjax.models.cache import Cache, LayerCache
from lmjax.models.config import ModelConfig
from lmjax.models.hidden import Hidden
from lmjax.models.layers import make_norm, split_key
from lmjax.models.relative import relative_bias, relative_table
from lmjax.models.remat import Remat, rematerialised
from lmjax.models.routing import Routing, joined

Apply = Callable[[Block, jax.Array, int, jax.Array | bool, jax.Array | None], tuple[jax.Array, Routing | None]]
"""Runs a block on the residual stream, given its layer, whether it is the first, and its PRNG key."""


class Stack(nnx.Module):
    """A stack: its blocks, the position bias they share, and the norm after them."""

    def __init__(self, config: ModelConfig, *, source_width: int | None = None, rngs: nnx.Rngs):
        """Builds all blocks; ``source_width`` is the width of the states that cross attention reads."""
        self.config = config
        self.source_width = source_width
        if config.share_layers:
            num_lead, groups, num_stacks, num_tail = 0, 0, 0, 1
        else:
            num_lead = config.leading_layers
            groups = (config.num_layers - num_lead) // config.period if config.execution.scan_layers else 0
            num_stacks = config.period if groups else 0
            num_tail = config.num_layers - num_lead - groups * config.period
        self.lead = nnx.List(self.new_block(rngs, layer=layer) for layer in range(num_lead))
        self.stacks = nnx.List(self.new_stack(groups, rngs, layer=num_lead + place) for place in range(num_stacks))
        first = config.num_layers - num_tail
        self.tail = nnx.List(self.new_block(rngs, layer=first + place) for place in range(num_tail))
        if config.positions == "relative" and not config.relative_per_layer:
            self.relative_RN = relative_table(config, rngs=rngs)
        self.final_norm = nnx.data(make_norm(config) if config.final_norm else None)

    def new_block(self, rngs: nnx.Rngs, *, layer: int) -> Block:
        """Returns a block built for layer ``layer``."""
        mixer = self.config.mixers[layer % len(self.config.mixers)]
        has_experts = self.config.has_experts(layer)
        return Block(self.config, mixer=mixer, has_experts=has_experts, source_width=self.source_width, rngs=rngs)

    def new_stack(self, groups: int, rngs: nnx.Rngs, *, layer: int) -> Block:
        """Returns ``groups`` blocks as one module, in which every parameter is stacked along a leading axis."""
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
        valid_BT: jax.Array | None = None,
        skip_last: int = 0,
        final_norm: bool = True,
        key: jax.Array | None = None,
    ) -> Hidden:
        """Runs all blocks and the final norm, and returns the hidden states with the statistics of the routing.

        Args:
          x_BTD: the embedded sequence, made of tokens or of any other features.
          positions_BT: int32 position of each element.
          mask: who sees whom.
          source_BSD: the encoder's states, if the stack has cross attention.
          cross_mask: which of the encoder's states each position sees.
          valid_BT: False on padding, which experts then have no room for.
          skip_last: how many of the last blocks are left out; they must be outside of the scanned stacks, in ``tail``.
          final_norm: whether to apply the final norm; without it the states are the residual stream.
          key: PRNG key of dropout; None for none.
        """
        layer_masks = [_windowed(mask, window) for window in self.config.windows]
        bias = self.position_bias()

        def apply(block: Block, x_BTD: jax.Array, layer: int, is_first, key: jax.Array | None):
            x_BTD, _, routing = block(
                x_BTD,
                positions_BT,
                layer_masks[layer % len(layer_masks)],
                local=self._is_local(layer),
                turned=self._is_turned(layer),
                is_first=is_first,
                position_bias=bias,
                source=source_BSD,
                cross_mask=cross_mask,
                valid_BT=valid_BT,
                key=key,
            )
            return x_BTD, routing

        scan_key, unrolled_key = split_key(key, 2)
        if self.config.share_layers:
            x_BTD, routing = self._repeat(apply, x_BTD, scan_key)
            return Hidden(self.normalised(x_BTD) if final_norm else x_BTD, joined([routing]))
        assert skip_last <= len(self.tail), "scanned blocks are all run"
        num_lead, tail = len(self.lead), self.tail[: len(self.tail) - skip_last]
        keys = split_key(unrolled_key, num_lead + len(tail))
        x_BTD, routings = self._unrolled(apply, x_BTD, self.lead, keys[:num_lead], first=0)
        if self.stacks:
            x_BTD, scanned = self._scanned(apply, x_BTD, scan_key)
            routings += scanned
        first = self.config.num_layers - len(self.tail)
        x_BTD, further = self._unrolled(apply, x_BTD, tail, keys[num_lead:], first=first)
        return Hidden(self.normalised(x_BTD) if final_norm else x_BTD, joined(routings + further))

    def _unrolled(
        self, apply: Apply, x_BTD: jax.Array, blocks: Sequence[Block], keys: Sequence[jax.Array | None], *, first: int
    ) -> tuple[jax.Array, list[Routing | None]]:
        """Returns the residual stream after blocks that stand one by one, the first of them at layer ``first``."""
        routings = []
        for layer, (block, block_key) in enumerate(zip(blocks, keys, strict=True), start=first):

            def body(x_BTD: jax.Array, scanned, layer=layer):
                return apply(scanned[0], x_BTD, layer, layer == 0, scanned[1])

            x_BTD, routing = rematerialised(body, self.remat, scanned=False)(x_BTD, (block, block_key))
            routings.append(routing)
        return x_BTD, routings

    def _scanned(self, apply: Apply, x_BTD: jax.Array, key: jax.Array | None) -> tuple[jax.Array, list[Routing | None]]:
        """Returns the residual stream after the stacks; a step of the scan runs one block of each."""
        num_lead = len(self.lead)
        num_groups = (self.config.num_layers - num_lead - len(self.tail)) // len(self.stacks)

        def group(x_BTD: jax.Array, scanned) -> tuple[jax.Array, list[Routing | None]]:
            blocks, is_first, key = scanned
            routings = []
            for layer, (block, block_key) in enumerate(zip(blocks, split_key(key, len(blocks)), strict=True), num_lead):
                x_BTD, routing = apply(block, x_BTD, layer, is_first if layer == 0 else False, block_key)
                routings.append(routing)
            return x_BTD, routings

        keys = None if key is None else jax.random.split(key, num_groups)
        is_first = jnp.arange(num_groups) == 0
        return jax.lax.scan(rematerialised(group, self.remat, scanned=True), x_BTD, (list(self.stacks), is_first, keys))

    def _repeat(self, apply: Apply, x_BTD: jax.Array, key: jax.Array | None) -> tuple[jax.Array, Routing | None]:
        """Returns the output of a stack with shared layers: its one block is run as many times as the stack is deep."""
        num_layers = self.config.num_layers

        def body(x_BTD: jax.Array, scanned) -> tuple[jax.Array, Routing | None]:
            is_first, key = scanned
            return apply(self.tail[0], x_BTD, 0, is_first, key)

        keys = None if key is None else jax.random.split(key, num_layers)
        return jax.lax.scan(rematerialised(body, self.remat, scanned=True), x_BTD, (jnp.arange(num_layers) == 0, keys))

    def run_block(
        self,
        block: Block,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        mask: IntervalMask,
        *,
        layer: int,
        before_BMD: jax.Array | None = None,
        valid_BT: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> Hidden:
        """Runs one block that is built like layer ``layer``, and returns the residual stream after it as the states.

        It is used by heads that have layers of their own and by layers with a memory.

        Args:
          block: the block.
          x_BTD: the residual stream before it.
          positions_BT: int32 position of each element.
          mask: which positions each position sees; with a memory, as intervals over memory and row together.
          layer: the layer whose window the block has.
          before_BMD: the residual stream of the positions before the row, which the block attends to as well.
          valid_BT: False on padding, which experts then have no room for.
          key: PRNG key of dropout; None for none.
        """
        window = self.config.windows[layer % len(self.config.windows)]
        index_1T = None
        if before_BMD is not None:
            index_1T = before_BMD.shape[1] + jnp.arange(x_BTD.shape[1], dtype=jnp.int32)[None, :]
        bias, layer_mask = self.position_bias(), _windowed(mask, window, index_1T)

        def body(x_BTD: jax.Array, scanned) -> Hidden:
            block, key, before_BMD = scanned
            x_BTD, _, routing = block(
                x_BTD,
                positions_BT,
                layer_mask,
                local=self._is_local(layer),
                turned=self._is_turned(layer),
                is_first=layer == 0,
                position_bias=bias,
                before_BMD=before_BMD,
                valid_BT=valid_BT,
                key=key,
            )
            return Hidden(x_BTD, None if routing is None else joined([routing]))

        return rematerialised(body, self.remat, scanned=False)(x_BTD, (block, key, before_BMD))

    def run_cached(
        self,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        mask: IntervalMask,
        caches: tuple[Cache, ...],
        *,
        sources: tuple[LayerCache, ...] | None = None,
        cross_mask: IntervalMask | None = None,
        blocks: Sequence[Block] | None = None,
        first: int = 0,
        final_norm: bool = True,
    ) -> tuple[jax.Array, tuple[Cache, ...]]:
        """Returns the hidden states of new elements, which attend to cached ones, for decoding.

        Args:
          x_BTD: the new elements, embedded.
          positions_BT: their positions, which are also the cache slots they are written to.
          mask: which slots each new element sees, as intervals.
          caches: one cache for each layer.
          sources: the keys and values that cross attention reads, one for each layer, see :meth:`remember`.
          cross_mask: which positions of the source each new element sees, as intervals.
          blocks: the blocks to run, each with its cache; all layers unless given.
          first: the layer that the first block is built like.
          final_norm: whether to apply the final norm; without it the states are the residual stream.
        """
        bias = self.position_bias()
        updated = []
        blocks = self.layers() if blocks is None else blocks
        for layer, (block, cache) in enumerate(zip(blocks, caches, strict=True), start=first):
            window = self.config.windows[layer % len(self.config.windows)]
            x_BTD, written, _ = block(
                x_BTD,
                positions_BT,
                _windowed(mask, window, positions_BT),
                local=self._is_local(layer),
                turned=self._is_turned(layer),
                is_first=layer == 0,
                position_bias=bias,
                source=None if sources is None else sources[layer],
                cross_mask=cross_mask,
                cache=cache,
            )
            assert written is not None
            updated.append(written)
        return self.normalised(x_BTD) if final_norm else x_BTD, tuple(updated)

    def remember(self, source_BSD: jax.Array) -> tuple[LayerCache, ...]:
        """Returns each layer's cross-attention keys and values of the encoder's states, for :meth:`run_cached`."""
        return tuple(block.cross_attention.remember(source_BSD) for block in self.layers())

    def layers(self) -> list[Block]:
        """Returns the blocks in order of depth; scanned blocks are taken out of their stacks."""
        if self.config.share_layers:
            return [self.tail[0]] * self.config.num_layers
        period = len(self.stacks)
        num_scanned = self.config.num_layers - len(self.lead) - len(self.tail)
        scanned = [
            jax.tree.map(lambda leaf, group=layer // period: leaf[group], self.stacks[layer % period])
            for layer in range(num_scanned)
        ]
        return [*self.lead, *scanned, *self.tail]

    def unstack(self) -> None:
        """Takes the layers out of their stacks for good.

        Call it before a loop over tokens, not inside of one, where it would copy every weight.
        """
        self.lead, self.stacks, self.tail = nnx.List(), nnx.List(), nnx.List(self.layers())

    def position_bias(self) -> PositionBias | None:
        """Returns the bias of all layers' attention logits, or None if there is none or if each layer has its own."""
        config = self.config
        if config.positions == "alibi":
            return AlibiBias(slopes_N=jnp.array(alibi_slopes(config.num_heads), jnp.float32))
        if config.positions == "relative" and not config.relative_per_layer:
            return relative_bias(config, self.relative_RN[...])
        return None

    def normalised(self, x_BTD: jax.Array) -> jax.Array:
        """Returns the residual stream after the final norm; without a final norm, the stream itself."""
        return x_BTD if self.final_norm is None else self.final_norm(x_BTD)

    @property
    def remat(self) -> Remat:
        """The policy for what the backward pass computes again of a block, see :mod:`lmjax.models.remat`."""
        return self.config.execution.remat

    def _is_local(self, layer: int) -> bool:
        return self.config.windows[layer % len(self.config.windows)] is not None

    def _is_turned(self, layer: int) -> bool:
        return self.config.rope_layers[layer % len(self.config.rope_layers)]


def _windowed(mask: IntervalMask, window: int | None, index_BT: jax.Array | None = None) -> IntervalMask:
    return mask if window is None else masks.windowed(mask, window, index_BT=index_BT)
