"""What proposes tokens for speculative decoding: another model, or further heads of the model itself.

A proposer has four functions. ``begin`` reads the prompts. ``propose`` names the next tokens, and the distributions it
drew them from. ``run`` runs the model on the last token and the proposed ones. ``observe`` takes note of what the model
then knows. Proposals decide how fast text is written, and never what is written.

All caches are indexed by position. A token that is not kept leaves its keys and values behind; they stand after the
text, where nobody looks, until those of the token that takes its place are written over them.

Axes: J proposed tokens, W the last token of the text and the proposed ones, U positions the heads read again.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from lmjax.decode.draft import Reading, aligned, extend, new_stream, read_prompts, read_with_encoder
from lmjax.models.cache import Cache, empty_cache

Proposer = Literal["model", "further_heads", "prediction_modules"]
"""The proposers by name: another model, or the extra of the model that holds its heads."""

Draw = Callable[[jax.Array, jax.Array, jax.Array | int], tuple[jax.Array, jax.Array, jax.Array]]
"""From logits [B, V], the texts int32 [B, S] and the number of the proposal: a token of each row, int32 [B], the
logarithm of what it was drawn from [B, V], and the texts with it."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """What a proposer keeps from one round to the next.

    Attributes:
      caches: of the other model's layers, or of each head.
      reading: what the other model's encoder has read, or None.
      states_BUD: for heads, the states of the last positions that the model has run on.
      start_B: int32, the position of the first of these states.
    """

    caches: tuple[Cache, ...]
    reading: Reading | None = None
    states_BUD: jax.Array | None = None
    start_B: jax.Array | None = None


Begun = tuple[jax.Array, tuple[Cache, ...], Reading | None, Memory]
"""The model's hidden states of the last tokens [B, D], its caches and reading, and the proposer's memory."""

Proposed = tuple[jax.Array, jax.Array, jax.Array, Memory]
"""Tokens int32 [B, J], the logarithms of what they were drawn from [B, J, V], the texts with them, and the memory."""

Ran = tuple[jax.Array, jax.Array | None, tuple[Cache, ...]]
"""The model's hidden states [B, W, D], the states that heads would read, and the model's caches."""


class OtherModel:
    """Another, smaller model of the same tokens, which writes ahead (Leviathan et al. 2023)."""

    def __init__(self, model: Any, other: Any, length: int):
        """Takes the model, the other one, and the number of tokens to propose."""
        self.model, self.other, self.length = model, other, length

    def begin(self, tokens_BT: jax.Array, lengths_B: jax.Array, read: Any, *, room: int, prefix: bool) -> Begun:
        """Returns the model's hidden states of the last tokens, its caches and reading, and the memory."""
        readings = [None if read is None else read_with_encoder(model, *read) for model in (self.model, self.other)]
        drafts = [
            read_prompts(model, tokens_BT, lengths_B, room=room, prefix=prefix, reading=reading)[0]
            for model, reading in zip((self.model, self.other), readings, strict=True)
        ]
        return drafts[0].hidden_BD, drafts[0].caches, readings[0], Memory(drafts[1].caches, readings[1])

    def propose(self, memory: Memory, tokens_BS: jax.Array, lengths_B: jax.Array, draw: Draw) -> Proposed:
        """Writes ahead with the other model; returns tokens [B, J], logarithms [B, J, V], texts and memory."""
        # If all proposals were kept last time, the other model has not read the last of them. Reading the last two
        # tokens of the text again costs one pass, as reading one does.
        positions_B2 = lengths_B[:, None] - jnp.array([[2, 1]], jnp.int32)
        last_B2 = jnp.take_along_axis(tokens_BS, positions_B2, axis=1)
        states_B2D, caches = extend(self.other, last_B2, positions_B2, memory.caches, memory.reading)
        token_B, log_q_BV, tokens_BS = draw(self.other.logits(states_B2D[:, 1]), tokens_BS, 0)

        def further(carry, number: jax.Array):
            token_B, caches, tokens_BS = carry
            positions_B1 = (lengths_B + number - 1)[:, None]
            states_B1D, caches = extend(self.other, token_B[:, None], positions_B1, caches, memory.reading)
            token_B, log_q_BV, tokens_BS = draw(self.other.logits(states_B1D[:, 0]), tokens_BS, number)
            return (token_B, caches, tokens_BS), (token_B, log_q_BV)

        numbers = jnp.arange(1, self.length)
        (_, caches, tokens_BS), (later_JB, later_JBV) = jax.lax.scan(further, (token_B, caches, tokens_BS), numbers)
        proposed_BJ = jnp.concatenate([token_B[:, None], later_JB.T], axis=1)
        log_q_BJV = jnp.concatenate([log_q_BV[:, None], jnp.swapaxes(later_JBV, 0, 1)], axis=1)
        return proposed_BJ, log_q_BJV, tokens_BS, dataclasses.replace(memory, caches=caches)

    def run(
        self, tokens_BW: jax.Array, positions_BW: jax.Array, caches: tuple[Cache, ...], reading: Reading | None
    ) -> Ran:
        """Runs the model; returns its hidden states, what heads would read, and its caches."""
        states_BWD, caches = extend(self.model, tokens_BW, positions_BW, caches, reading)
        return states_BWD, None, caches

    def observe(self, memory: Memory, states_BWD: jax.Array | None, positions_BW: jax.Array) -> Memory:
        """Returns the memory: the other model sees nothing of this one."""
        del states_BWD, positions_BW
        return memory


class OwnHeads(abc.ABC):
    """Further heads of the model, of which each reads the model's states and keeps a cache of its own."""

    before = 0
    """The number of positions before the last token that the heads read again."""

    def __init__(self, model: Any, heads: Any, length: int):
        """Takes the model, its further heads, and how many of them to use."""
        self.model, self.heads, self.length = model, list(heads)[:length], length

    def begin(self, tokens_BT: jax.Array, lengths_B: jax.Array, read: Any, *, room: int, prefix: bool) -> Begun:
        """Returns the model's hidden states of the last tokens, its caches, no reading, and the memory."""
        assert read is None and not prefix
        num_rows, padded = tokens_BT.shape
        prompt_BT, positions_BT = aligned(tokens_BT, lengths_B, outside=padded + room)
        caches = empty_cache(self.model.config, batch_size=num_rows, length=padded + room)
        states_BTD, raw_BTD, caches = self.run(prompt_BT, positions_BT, caches, None)
        assert raw_BTD is not None
        heads = empty_cache(self.model.config, batch_size=num_rows, length=padded + room)[-1:] * self.length
        texts_BS = jnp.pad(tokens_BT, ((0, 0), (0, room)))
        heads, _ = self._heads(heads, raw_BTD, positions_BT, texts_BS, lambda number, states_BTD, texts_BS: texts_BS)
        # The memory is as if the last round had ended before the last token, and this one has run on that token alone.
        last = raw_BTD[:, max(padded - self.before - 1, 0) :]
        states_BUD = jnp.pad(
            last,
            ((0, 0), (self.before + 1 - last.shape[1], self.length), (0, 0)),
        )
        return states_BTD[:, -1], caches, None, Memory(heads, None, states_BUD, lengths_B - 1 - self.before)

    def propose(self, memory: Memory, tokens_BS: jax.Array, lengths_B: jax.Array, draw: Draw) -> Proposed:
        """Asks each head in turn; returns tokens [B, J], logarithms [B, J, V], texts and memory."""
        assert memory.states_BUD is not None and memory.start_B is not None
        positions_BU = memory.start_B[:, None] + jnp.arange(memory.states_BUD.shape[1], dtype=jnp.int32)[None, :]
        # The heads speak at the last position that the model has run on, which is the one before the last token.
        place_B = lengths_B - 2 - memory.start_B
        drawn = []

        def named(number: int, states_BUD: jax.Array, tokens_BS: jax.Array) -> jax.Array:
            state_BD = jnp.take_along_axis(states_BUD, place_B[:, None, None], axis=1)[:, 0]
            token_B, log_q_BV, tokens_BS = draw(self.model.logits(state_BD), tokens_BS, number)
            drawn.append((token_B, log_q_BV))
            return tokens_BS

        caches, tokens_BS = self._heads(memory.caches, memory.states_BUD, positions_BU, tokens_BS, named)
        proposed_BJ, log_q_BJV = (jnp.stack(parts, axis=1) for parts in zip(*drawn, strict=True))
        return proposed_BJ, log_q_BJV, tokens_BS, dataclasses.replace(memory, caches=caches)

    def observe(self, memory: Memory, states_BWD: jax.Array | None, positions_BW: jax.Array) -> Memory:
        """Returns the memory with the states of the positions that the model has now run on."""
        assert states_BWD is not None
        start_B = positions_BW[:, 0] - self.before
        if self.before:
            assert memory.states_BUD is not None and memory.start_B is not None
            index_BC = (start_B - memory.start_B)[:, None] + jnp.arange(self.before, dtype=jnp.int32)[None, :]
            earlier_BCD = jnp.take_along_axis(memory.states_BUD, index_BC[..., None], axis=1)
            states_BWD = jnp.concatenate([earlier_BCD, states_BWD], axis=1)
        return dataclasses.replace(memory, states_BUD=states_BWD, start_B=start_B)

    @abc.abstractmethod
    def run(
        self, tokens_BW: jax.Array, positions_BW: jax.Array, caches: tuple[Cache, ...], reading: Reading | None
    ) -> Ran:
        """Runs the model; returns its hidden states, what the heads read, and its caches."""

    @abc.abstractmethod
    def _heads(self, caches, states_BUD: jax.Array, positions_BU: jax.Array, tokens_BS: jax.Array, named):
        """Runs each head and hands its states, and the texts, to ``named``; returns the caches and the texts."""

    def _block(self, block: Any, x_BUD: jax.Array, positions_BU: jax.Array, cache: Cache, *, final_norm: bool):
        """Runs one block, built like the model's last, on positions of which some may lie before the text."""
        size = jax.tree.leaves(cache)[0].shape[-2]
        positions_BU = jnp.where(positions_BU < 0, size, positions_BU)
        mask = new_stream(positions_BU, positions_BU).mask
        last = self.model.config.num_layers - 1
        return self.model.run_cached(
            x_BUD, positions_BU, mask, (cache,), blocks=[block], first=last, final_norm=final_norm
        )


class ParallelHeads(OwnHeads):
    """Heads beside each other, each a layer on the states before the model's last layer (Gloeckle et al. 2024)."""

    def run(
        self, tokens_BW: jax.Array, positions_BW: jax.Array, caches: tuple[Cache, ...], reading: Reading | None
    ) -> Ran:
        """Runs the model; the heads read its states before the last layer."""
        del reading
        stream, model = new_stream(tokens_BW, positions_BW), self.model
        layers, last = model.layers(), model.config.num_layers - 1
        trunk_BWD, trunk_caches = model.run_cached(
            model.embed(stream), positions_BW, stream.mask, caches[:last], blocks=layers[:last], final_norm=False
        )
        states_BWD, last_cache = model.run_cached(
            trunk_BWD, positions_BW, stream.mask, caches[last:], blocks=layers[last:], first=last
        )
        return states_BWD, trunk_BWD, (*trunk_caches, *last_cache)

    def _heads(self, caches, states_BUD: jax.Array, positions_BU: jax.Array, tokens_BS: jax.Array, named):
        updated = []
        for number, (head, cache) in enumerate(zip(self.heads, caches, strict=True)):
            out_BUD, (cache,) = self._block(head, states_BUD, positions_BU, cache, final_norm=True)
            tokens_BS = named(number, out_BUD, tokens_BS)
            updated.append(cache)
        return tuple(updated), tokens_BS


class SequentialModules(OwnHeads):
    """Modules in a row, each of which reads the states of the one before and the token it has named (DeepSeek-V3).

    Module k at position i reads the token at ``i + k``. That is known for good once the text is so long, which is why
    the modules read the last positions before the text's end again.
    """

    def __init__(self, model: Any, heads: Any, length: int):
        """Takes the model, its modules, and how many of them to use."""
        super().__init__(model, heads, length)
        self.before = length - 1

    def run(
        self, tokens_BW: jax.Array, positions_BW: jax.Array, caches: tuple[Cache, ...], reading: Reading | None
    ) -> Ran:
        """Runs the model; the modules read its states before the final norm."""
        del reading
        stream, model = new_stream(tokens_BW, positions_BW), self.model
        raw_BWD, caches = model.run_cached(model.embed(stream), positions_BW, stream.mask, caches, final_norm=False)
        return model.normalised(raw_BWD), raw_BWD, caches

    def _heads(self, caches, states_BUD: jax.Array, positions_BU: jax.Array, tokens_BS: jax.Array, named):
        updated = []
        for number, (module, cache) in enumerate(zip(self.heads, caches, strict=True)):
            ahead_BU = jnp.clip(positions_BU + number + 1, 0, tokens_BS.shape[1] - 1)
            stream = new_stream(jnp.take_along_axis(tokens_BS, ahead_BU, axis=1), positions_BU)
            joined_BUD = module.joined(states_BUD, self.model.embed(stream))
            states_BUD, (cache,) = self._block(module.block, joined_BUD, positions_BU, cache, final_norm=False)
            tokens_BS = named(number, module.head_norm(states_BUD), tokens_BS)
            updated.append(cache)
        return tuple(updated), tokens_BS


AnyProposer = OtherModel | ParallelHeads | SequentialModules
