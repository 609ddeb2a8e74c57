"""Denoising: read a document that was damaged, write it as it was (BART: Lewis et al. 2020, section 2.2).

    data       We met. It rained. <eos>
    encoder    It <mask>. We met. <eos>
    decoder    <eos> We met. It rained.
    targets    We met. It rained. <eos>

The encoder reads in both directions; every token of the document is predicted, from those before it
and from all the encoder reads of its document.
"""

import dataclasses
import math
from typing import ClassVar

import jax

from lmjax.corruption import DenoiseConfig, denoise, sentence_numbers
from lmjax.models.config import ModelConfig
from lmjax.objectives.parts.encoder_decoder import EncoderDecoderObjective, longest_row, paired_batch
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising(EncoderDecoderObjective):
    """BART's objective, with any combination of its noises."""

    noise: DenoiseConfig = DenoiseConfig()
    """What is done to a document. The paper's large model has infilling and permuted sentences."""

    start_role: ClassVar[str] = "eos"
    """The end of text, as in the released BART, where a document follows the end of another."""

    def row_length(self, sequence_length: int) -> int:
        """Returns T tokens, or fewer where the noise may add more tokens than it removes."""
        return longest_row(sequence_length, self._inputs)

    def decoder_length(self, sequence_length: int) -> int:
        """Returns the length of a row, since the documents are written as they are."""
        return self.row_length(sequence_length)

    def _inputs(self, length: int) -> int:
        """Positions of the encoder: five standard deviations above the mean, and no fewer than the decoder's.

        A span of mean length m in the place of which one mask stands adds 1 - m tokens, give or take
        the number of spans; deletions, which only make room, are not counted on.
        """
        noise = self.noise
        mean = length * (noise.insert + noise.infill * (1 / noise.infill_mean - 1))
        variance = length * (noise.insert * (1 - noise.insert) + noise.infill / noise.infill_mean**2)
        return length + max(0, math.ceil(mean + 5 * math.sqrt(variance)))

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a tokenizer without a mask token, or one that cannot tell where the sentences to permute end."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        vocabulary.require("mask", needed_by="Denoising")
        if self.noise.permute_sentences:
            ends_V = vocabulary.sentence_end_V
            if ends_V is None or not ends_V.any():
                raise ValueError(
                    "objective.noise.permute_sentences=True: no token of this tokenizer ends a sentence: use another "
                    "tokenizer, or set it to False"
                )

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Applies the noise to each document."""
        sentences_BT = None
        if self.noise.permute_sentences and vocabulary.sentence_end_V is not None:
            sentences_BT = sentence_numbers(rows.tokens_BT, vocabulary.sentence_end_V)
        inputs = denoise(
            key,
            rows.tokens_BT,
            self.noise,
            vocab_size=vocabulary.size,
            mask_id=vocabulary.require("mask", needed_by="Denoising"),
            special_ids=vocabulary.special_ids,
            segments_BT=rows.segments_BT,
            sentences_BT=sentences_BT,
            length=self._inputs(rows.tokens_BT.shape[1]),
            pad_id=vocabulary.pad_id or 0,
        )
        return paired_batch(inputs, rows, start_id=self.start_id(vocabulary))
