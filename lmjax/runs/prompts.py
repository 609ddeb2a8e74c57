"""Prompts of models that fill in the middle, as token ids."""

from collections.abc import Sequence

from lmjax.runs.opened import Opened
from lmjax.train.prompts import context_ids

KNOWN_MARKERS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
)
"""Names that published tokenizers give the tokens before a prefix, a suffix and a middle."""


def middle_ids(run: Opened, prefix: str, suffix: str, markers: Sequence[str]) -> list[int]:
    """Returns the ids after which a fill-in-the-middle model writes what stands between two texts.

    Args:
      run: the run.
      prefix: the text before the gap.
      suffix: the text after the gap.
      markers: names of the tokens before the prefix, the suffix and the middle.

    Raises:
      ValueError: the tokenizer lacks a marker.
    """
    vocabulary, tokenizer = run.tokenizer.vocabulary, run.tokenizer
    before_prefix, before_suffix, before_middle = (
        vocabulary.require(marker, needed_by="filling in the middle") for marker in markers
    )
    return [
        *(context_ids(run.config.data, tokenizer) if run.config.data.add_bos else []),
        before_prefix,
        *tokenizer.encode(prefix, after="").tolist(),
        before_suffix,
        *tokenizer.encode(suffix, after="").tolist(),
        before_middle,
    ]
