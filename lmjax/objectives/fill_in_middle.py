"""Fill-in-the-middle: a causal model that has read what follows before it writes (Bavarian et al. 2022).

A document is cut at two random places into prefix, middle and suffix and rewritten as

    PSM   <fim_prefix> prefix <fim_suffix> suffix <fim_middle> middle
    SPM   <fim_prefix> <fim_suffix> suffix <fim_middle> prefix middle

The loss is that of any causal model, over all of it; documents that are not rewritten stay in the same batch.
"""

import dataclasses

import jax

from lmjax.corruption import fill_in_middle
from lmjax.models.config import ModelConfig
from lmjax.objectives.base import TokenObjective, next_token_targets
from lmjax.objectives.moved import moved_weights, place_codes
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream

MARKERS = 3
"""Tokens a rewritten document is longer by."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FillInMiddle(TokenObjective):
    """Next-token prediction on documents of which some are told middle last.

    Each document of a packed row is rewritten on its own; with ``data.packing="windows"`` a row counts as
    one document.
    """

    rate: float = 0.5
    """Probability of a document to be rewritten."""
    spm_fraction: float = 0.5
    """Of the rewritten documents, the share in SPM order; the others are in PSM order."""
    documents_per_row: int = 1
    """Rewritten documents a row has room for, at three tokens each. What further ones push beyond the row's
    end is not trained on in that epoch."""
    markers: tuple[str, str, str] = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    """Names of the tokens before the prefix, the suffix and the middle."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("rate", "spm_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"objective.{name}={getattr(self, name)}: must be from 0 to 1")
        if self.documents_per_row < 1:
            raise ValueError(f"objective.documents_per_row={self.documents_per_row}: must be at least 1")
        if len(set(self.markers)) < len(self.markers):
            raise ValueError(f"objective.markers={self.markers}: the three must differ")

    def row_length(self, sequence_length: int) -> int:
        """T inputs and the token after the last of them, less the room for markers."""
        return sequence_length + 1 - MARKERS * self.documents_per_row

    def check(self, *, model: ModelConfig, vocabulary: Vocabulary, sequence_length: int) -> None:
        """Refuses a tokenizer without the markers, and rows that they would fill."""
        super().check(model=model, vocabulary=vocabulary, sequence_length=sequence_length)
        self._marker_ids(vocabulary)
        if self.row_length(sequence_length) < 2:
            raise ValueError(
                f"train.sequence_length={sequence_length} leaves no text beside the markers of "
                f"objective.documents_per_row={self.documents_per_row} documents: "
                f"set it to at least {MARKERS * self.documents_per_row + 1}, or lower documents_per_row"
            )

    def _marker_ids(self, vocabulary: Vocabulary) -> dict[str, int]:
        names = zip(("prefix_id", "suffix_id", "middle_id"), self.markers, strict=True)
        return {argument: vocabulary.require(marker, needed_by="FillInMiddle") for argument, marker in names}

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Rewrites documents, then shifts; a document sees only itself."""

        def rewrite(tokens_BT: jax.Array) -> Rows:
            return fill_in_middle(
                key,
                tokens_BT,
                **self._marker_ids(vocabulary),
                rate=self.rate,
                spm_fraction=self.spm_fraction,
                segments_BT=rows.segments_BT,
                bos_id=vocabulary.bos_id,
                eos_id=vocabulary.eos_id,
                length=tokens_BT.shape[1] + MARKERS * self.documents_per_row,
                pad_id=vocabulary.pad_id or 0,
            )

        rewritten = rewrite(rows.tokens_BT)
        if rows.weights_BT is not None:
            weights_BT = moved_weights(rows, rewrite(place_codes(rows, vocabulary)), vocabulary)
            rewritten = dataclasses.replace(rewritten, weights_BT=weights_BT)
        inputs_BT, segments_BT, targets_BT, weights_BT = next_token_targets(rewritten)
        stream = make_stream(inputs_BT, segments_BT, "causal")
        return Batch(inputs=stream, targets_BP=targets_BT, weights={"loss": weights_BT})
