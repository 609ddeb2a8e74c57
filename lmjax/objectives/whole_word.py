"""Whole-word masking: a word is hidden with all its tokens or not at all (BERT's release of May 2019).

A hidden piece of a word is mostly given away by the word's other pieces; hiding all of them makes
the model read the sentence instead. Where words start is the tokenizer's to say.
"""

import dataclasses
import math

import jax

from lmjax.corruption import mask_words
from lmjax.models.config import ModelConfig
from lmjax.objectives.masked_lm import MaskedLM
from lmjax.objectives.parts.scored_positions import scored_positions, scored_targets
from lmjax.objectives.parts.token_objective import token_weights
from lmjax.schedules.ramp import current, highest
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import IGNORE_INDEX, Batch, Rows, make_stream

TOKENS_PER_WORD = 8
"""Slots are reserved for as large a variance as if all words had this many tokens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeWordMaskedLM(MaskedLM):
    """Masked LM that draws words: ``rate`` is the probability of a word to be chosen.

    Each token of a chosen word is masked, replaced or kept on its own, as BERT does. A row that draws
    more tokens than :func:`word_slots` gives up words at random until they fit.
    """

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a tokenizer without a mask token, or one that cannot tell where words start."""
        vocabulary.require("mask", needed_by="WholeWordMaskedLM")
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        check_word_starts(vocabulary, needed_by="WholeWordMaskedLM")

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Hides words and lists the positions of their tokens."""
        num_slots = word_slots(rows.tokens_BT.shape[1], highest(self.rate))
        inputs_BT, labels_BT = mask_words(
            key,
            rows.tokens_BT,
            segments_BT=rows.segments_BT,
            vocab_size=vocabulary.size,
            mask_id=vocabulary.require("mask", needed_by="WholeWordMaskedLM"),
            special_ids=vocabulary.special_ids,
            word_start_V=vocabulary.word_start_V,
            word_end_V=vocabulary.word_end_V,
            rate=current(self.rate),
            budget=num_slots,
            mask_fraction=current(self.mask_fraction),
            random_fraction=current(self.random_fraction),
            ignore_index=IGNORE_INDEX,
        )
        scored_BP = scored_positions(labels_BT != IGNORE_INDEX, num_slots)
        return Batch(
            inputs=make_stream(inputs_BT, rows.segments_BT, "bidirectional"),
            **scored_targets(scored_BP, labels_BT, token_weights(rows)),
        )


def word_slots(length: int, rate: float) -> int:
    """Returns how many slots a row needs whose words are scored with probability ``rate``.

    As :func:`lmjax.objectives.parts.scored_positions.slots`, but scored tokens come in groups of
    :data:`TOKENS_PER_WORD`, so the variance of their number is that many times as large.
    """
    deviations = 5 * math.sqrt(length * rate * (1 - rate) * TOKENS_PER_WORD)
    return min(length, -(-math.ceil(length * rate + deviations) // 8) * 8)


def check_word_starts(vocabulary: Vocabulary, *, needed_by: str) -> None:
    """Refuses a tokenizer that cannot tell where words start.

    Raises:
      ValueError: it cannot.
    """
    if vocabulary.word_start_V is None:
        raise ValueError(
            f"{needed_by} hides whole words and this tokenizer cannot tell where words start: set tokenizer.kind "
            f"to 'bpe' or a SentencePiece kind, or use MaskedLM"
        )
