"""Fill-in-the-middle: a causal model that has read what follows before it writes (Bavarian et al. 2022).

A document is cut at two random places into prefix, middle and suffix and rewritten as

    PSM   <fim_prefix> prefix <fim_suffix> suffix <fim_middle> middle
    SPM   <fim_prefix> <fim_suffix> suffix <fim_middle> prefix middle

The loss is that of any causal model, over all of it; documents that are not rewritten stay in the same batch.
Rewriting what lies in a row is the paper's context-level form; ``data.fim_rate`` is its document-level form,
at character positions.
"""

import dataclasses

import jax

from lmjax.corruption import ended_documents, fill_in_middle
from lmjax.data.config import DataConfig
from lmjax.models.config import ModelConfig
from lmjax.objectives.parts.origin_weights import moved_weights, place_codes
from lmjax.objectives.parts.token_objective import TokenObjective, next_token_targets, token_weights
from lmjax.schedules.ramp import Scalar, current, extremes
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Batch, Rows, make_stream

MARKERS = 3
"""The number of tokens that rewriting adds to a document."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FillInMiddle(TokenObjective):
    """Next-token prediction on documents, some of which are reordered with the middle at the end.

    Each document of a row is rewritten on its own. Documents that packing keeps apart see only themselves;
    with ``data.packing="windows"`` they are parted at end-of-text tokens, rewritten and joined again, and the
    row stays one stream.
    """

    rate: Scalar = 0.5
    """Probability of a document to be rewritten."""
    spm_fraction: Scalar = 0.5
    """Of the rewritten documents, the share in SPM order; the others are in PSM order."""
    documents_per_row: int = 1
    """Rewritten documents a row has room for, at three tokens each. What further ones push beyond the row's
    end is not trained on in that epoch; 0 leaves no room, as in the paper."""
    markers: tuple[str, str, str] = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    """Names of the tokens before the prefix, the suffix and the middle."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("rate", "spm_fraction"):
            if not all(0 <= share <= 1 for share in extremes(getattr(self, name))):
                raise ValueError(f"objective.{name}={getattr(self, name)}: must be from 0 to 1")
        if self.documents_per_row < 0:
            raise ValueError(f"objective.documents_per_row={self.documents_per_row}: must not be negative")
        if len(set(self.markers)) < len(self.markers):
            raise ValueError(f"objective.markers={self.markers}: the three must differ")

    def row_length(self, sequence_length: int) -> int:
        """Returns T + 1, for T inputs and the token after the last of them, less the room for markers."""
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

    def check_data(self, data: DataConfig) -> None:
        """Refuses documents that preparation has rewritten already."""
        super().check_data(data)
        if data.fim_rate:
            raise ValueError(
                f"data.fim_rate={data.fim_rate}: FillInMiddle would cut documents that are cut already: leave it at "
                f"0, or train CausalLM on them"
            )

    def _marker_ids(self, vocabulary: Vocabulary) -> dict[str, int]:
        names = zip(("prefix_id", "suffix_id", "middle_id"), self.markers, strict=True)
        return {argument: vocabulary.require(marker, needed_by="FillInMiddle") for argument, marker in names}

    def corrupt(self, key: jax.Array, rows: Rows, vocabulary: Vocabulary) -> Batch:
        """Rewrites documents, then shifts the rows by one token."""
        is_stream = rows.segments_BT is None
        if is_stream and vocabulary.eos_id is not None:
            rows = dataclasses.replace(rows, segments_BT=ended_documents(rows.tokens_BT, vocabulary.eos_id))

        def rewrite(tokens_BT: jax.Array) -> Rows:
            return fill_in_middle(
                key,
                tokens_BT,
                **self._marker_ids(vocabulary),
                rate=current(self.rate),
                spm_fraction=current(self.spm_fraction),
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
        if is_stream:
            # One stream again; what is not filled comes after everything and weighs nothing.
            rewritten = Rows(tokens_BT=rewritten.tokens_BT, weights_BT=token_weights(rewritten))
        inputs_BT, segments_BT, targets_BT, weights_BT = next_token_targets(rewritten)
        stream = make_stream(inputs_BT, segments_BT, "causal")
        return Batch(inputs=stream, targets_BP=targets_BT, weights={"loss": weights_BT})
