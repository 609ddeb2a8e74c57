"""What the data is and how it becomes rows."""

import dataclasses
import math
from typing import Literal

STDLIB = "stdlib"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where text comes from, how it is split and stored as tokens, and how rows are cut from the tokens."""

    path: str = STDLIB
    """A file, a folder or a glob, or "stdlib", the Python standard library's own sources. Names that end in
    .jsonl or .ndjson are JSON lines, others text; .gz and .zst are decompressed."""
    document_glob: str = "**/*"
    """Which files of a folder are read."""
    document_separator: str | None = None
    """Text that divides a text file into documents (such as "<|endoftext|>"); a file is one without it."""
    text_field: str = "text"
    """JSON lines: the field that holds the text (with prompt_field: the response)."""
    prompt_field: str | None = None
    """JSON lines: a field whose text comes before the text and has loss weight 0."""
    weight_field: str | None = None
    """JSON lines: the field with the loss weight of the text: a number, or one for each text of a list."""
    decode_errors: Literal["replace", "strict"] = "replace"
    """Bytes that are not UTF-8: put U+FFFD in their place and count them, or refuse the file."""
    add_bos: bool = False
    """Begin each document with the tokenizer's beginning-of-text token."""
    add_eos: bool = True
    """End each document with the tokenizer's end-of-text token."""
    valid_fraction: float = 0.05
    """The share of the data kept for validation."""
    split: Literal["document", "tail"] = "document"
    """Validate on whole documents, chosen by a hash of their text, or on the last characters of each file."""
    shard_bytes: int = 1 << 26
    """Bytes of input for each pair of shards: the unit of parallel work and of resuming."""
    prepared: str | None = None
    """A folder that holds, or is to hold, the token shards."""
    mixture: tuple[str, ...] = ()
    """Several prepared folders to draw rows from, in place of path and prepared."""
    mixture_weights: tuple[float, ...] = ()
    """The share of rows from each folder of mixture, in any unit."""
    packing: Literal["windows", "segments", "best_fit"] = "windows"
    """Rows are windows over the whole stream, the same windows with each document kept to itself, or whole
    documents packed together."""

    def __post_init__(self):
        if not self.path:
            raise ValueError('data.path="": name a file, a folder or a glob, or "stdlib"')
        if not 0.0 <= self.valid_fraction < 1.0:
            raise ValueError(f"data.valid_fraction={self.valid_fraction}: must be at least 0 and below 1")
        if self.shard_bytes < 1:
            raise ValueError(f"data.shard_bytes={self.shard_bytes}: must be at least 1")
        if self.document_separator == "":
            raise ValueError('data.document_separator="": give some text, or None for one document a file')
        for name, allowed in (
            ("decode_errors", ("replace", "strict")),
            ("split", ("document", "tail")),
            ("packing", ("windows", "segments", "best_fit")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"data.{name}={getattr(self, name)!r}: use one of {', '.join(allowed)}")
        self._check_mixture()

    def _check_mixture(self):
        if len(self.mixture) != len(self.mixture_weights):
            raise ValueError(
                f"data.mixture_weights has {len(self.mixture_weights)} values and data.mixture "
                f"{len(self.mixture)} folders: give one weight for each folder"
            )
        for weight in self.mixture_weights:
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"data.mixture_weights={self.mixture_weights}: weights must be above 0")
        if self.mixture and self.prepared is not None:
            raise ValueError("data.prepared and data.mixture are both given: keep one of them")

    @property
    def weighted(self) -> bool:
        """Whether documents carry loss weights, which are then stored beside the tokens."""
        return self.prompt_field is not None or self.weight_field is not None

    def preparation(self) -> dict[str, object]:
        """The fields that decide the shards' bytes, besides the files themselves and the tokenizer."""
        names = (
            "document_separator", "text_field", "prompt_field", "weight_field", "decode_errors",
            "add_bos", "add_eos", "valid_fraction", "split", "shard_bytes",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}
