"""What an encoder reads and a decoder writes about it, document by document, so that pairs pack into rows.

    encoder    a <extra_id_0> c <extra_id_1> <eos>                 each position sees its whole document
    decoder    <start> <extra_id_0> b <extra_id_1> d e             its past, and the encoder's document
    targets    <extra_id_0> b <extra_id_1> d e <eos>               the decoder's input one place on

The encoder has ``train.sequence_length`` positions, the decoder as many as what it writes then needs.
"""

import abc
import bisect
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp

from lmjax import masks
from lmjax.layout import documents
from lmjax.masks import IntervalMask
from lmjax.models.config import ModelConfig
from lmjax.objectives.parts.objective import Objective, Traits
from lmjax.objectives.parts.token_objective import TokenObjective, token_weights
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderDecoderObjective(TokenObjective):
    """An objective that trains an encoder and a decoder, in all of its forms or in one (``reads_with_encoder``)."""

    start_role: ClassVar[str] = "pad"
    """The special token the decoder's text begins with, before any target (T5's pad)."""
    ends_input: ClassVar[bool] = False
    """Whether ``corrupt`` puts an end of text after the encoder's documents, so that sampling does too."""

    @property
    def traits(self) -> Traits:
        """An encoder reads a part of each batch."""
        return Traits(reads_with_encoder=True, text_term="loss")

    @abc.abstractmethod
    def decoder_length(self, sequence_length: int) -> int:
        """Returns how many positions the decoder has where the encoder has ``sequence_length``."""

    def start_id(self, vocabulary: Vocabulary) -> int:
        """Returns the id of the token that the decoder's text begins with.

        Raises:
          ValueError: the tokenizer has none.
        """
        return vocabulary.require(self.start_role, needed_by=f"{type(self).__name__}'s decoder, to begin with,")

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses rows too short, a tokenizer without a start token, learned positions too few for either stack."""
        _check_row_length(self, sequence_length)
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        if not self.traits.reads_with_encoder:
            return
        self.start_id(vocabulary)
        length = self.decoder_length(sequence_length)
        if model.positions == "learned" and length > model.max_length:
            raise ValueError(
                f"train.sequence_length={sequence_length} makes {length} positions of the decoder, more than the "
                f"model's learned ones: set model.max_length to at least {length}, or model.positions to 'rope'"
            )


def paired_batch(inputs: Rows, targets: Rows, *, start_id: int) -> Batch:
    """Returns the batch in which an encoder reads ``inputs`` and a decoder writes ``targets``.

    Args:
      inputs: rows [B, S] for the encoder.
      targets: rows [B, T] to be written, with the weight of each token. A document reads the one of
        its number in ``inputs``; rows without segments are one document each, of number 1.
      start_id: what stands before a document's first token.
    """
    where = documents(targets.segments_BT, targets.tokens_BT.shape)
    before_BT = jnp.pad(targets.tokens_BT[:, :-1], ((0, 0), (1, 0)))
    shifted_BT = jnp.where(where.first, start_id, jnp.where(where.real_BT, before_BT, targets.tokens_BT))
    return Batch(
        inputs=make_stream(shifted_BT, targets.segments_BT, "causal"),
        targets_BP=targets.tokens_BT,
        weights={"loss": token_weights(targets)},
        encoder=make_stream(inputs.tokens_BT, inputs.segments_BT, "bidirectional"),
        cross_mask=_cross_mask(inputs, targets),
    )


def _cross_mask(inputs: Rows, targets: Rows) -> IntervalMask:
    if inputs.segments_BT is None and targets.segments_BT is None:
        start_1T = jnp.zeros((1, targets.tokens_BT.shape[1]), jnp.int32)
        return IntervalMask(start_BT=start_1T, end_BT=start_1T + inputs.tokens_BT.shape[1], kind="full")
    numbers = (jnp.ones_like(r.tokens_BT) if r.segments_BT is None else r.segments_BT for r in (targets, inputs))
    return masks.cross(*numbers)


def longest_row(room: int, needed: Callable[[int], int]) -> int:
    """Returns the largest n with ``needed(n) <= room``, or -1 if there is none; ``needed`` must not fall as n rises."""
    bound = room + 1
    while needed(bound) <= room:
        bound *= 2
    return bisect.bisect_right(range(bound), room, key=needed) - 1


def _check_row_length(objective: Objective, sequence_length: int) -> None:
    """Refuses rows too short to keep one token and drop one."""
    if objective.row_length(sequence_length) < 2:
        enough = next(n for n in range(sequence_length + 1, 2**30) if objective.row_length(n) >= 2)
        raise ValueError(
            f"train.sequence_length={sequence_length} leaves no text beside what {type(objective).__name__} "
            f"adds to a row: set it to at least {enough}"
        )
