"""SpanBERT's masking: runs of whole words hidden together (Joshi et al. 2020, section 3.1).

Lengths in words are geometric, ``p (1 - p)^(n - 1)`` on 1 .. 10 with p = 0.2 (3.8 words on average),
and spans are placed until the budget of 15% is met. A span is masked, replaced or kept as a whole.
The loss is masked language modelling's; the paper's span-boundary term is not part of it.
"""

import dataclasses

import jax

from lmjax.corruption import mask_spans
from lmjax.models.config import ModelConfig
from lmjax.objectives.base import token_weights
from lmjax.objectives.masked_lm import IGNORE, MaskedLM, scored_positions, scored_targets
from lmjax.objectives.whole_word import check_word_starts, word_slots
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanMaskedLM(MaskedLM):
    """Masked LM on spans of words; ``rate`` is the share of a row's words to hide."""

    length_p: float = 0.2
    """Parameter of the geometric distribution of a span's length in words."""
    max_words: int = 10
    """Longest span, words."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.length_p < 1:
            raise ValueError(f"objective.length_p={self.length_p}: must lie between 0 and 1")
        if self.max_words < 1:
            raise ValueError(f"objective.max_words={self.max_words}: must be at least 1")

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a tokenizer without a mask token, or one that cannot tell where words start."""
        vocabulary.require("mask", needed_by="SpanMaskedLM")
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        check_word_starts(vocabulary, needed_by="SpanMaskedLM")

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Hides spans and lists where their tokens were."""
        masked = mask_spans(
            key,
            rows.tokens_BT,
            segments_BT=rows.segments_BT,
            vocab_size=vocabulary.size,
            mask_id=vocabulary.require("mask", needed_by="SpanMaskedLM"),
            special_ids=vocabulary.special_ids,
            word_start_V=vocabulary.word_start_V,
            rate=self.rate,
            length_p=self.length_p,
            max_words=self.max_words,
            mask_fraction=self.mask_fraction,
            random_fraction=self.random_fraction,
            ignore_index=IGNORE,
        )
        num_slots = word_slots(rows.tokens_BT.shape[1], self.rate)
        scored_BP = scored_positions(masked.labels_BT != IGNORE, num_slots)
        return Batch(
            inputs=make_stream(masked.inputs_BT, rows.segments_BT, "bidirectional"),
            **scored_targets(scored_BP, masked.labels_BT, token_weights(rows)),
        )
