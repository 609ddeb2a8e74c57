"""Fill in the middle during preparation: whole documents are cut between characters, before they are encoded.

Bavarian et al. 2022, section 3. A document is cut at two uniformly random places and stored as

    PSM   <prefix> E(prefix) <suffix> E(suffix) <middle> E(middle)
    SPM   <prefix> <suffix> E(suffix) <middle> E(prefix) E(middle)

where E encodes each part by itself, because at a cursor a part may begin or end inside of what would be one token. A
part after a marker does not begin a document, so a tokenizer that puts a space before documents puts none there. The
random numbers are computed from the text, so that they do not depend on units of input or workers.
"""

import dataclasses
import hashlib

from lmjax.data.config import DataConfig
from lmjax.data.prepare.long_text import Text, blocks_of, end_of
from lmjax.data.prepare.record import Document


def middle_last(config: DataConfig, document: Document) -> Document:
    """Moves the document's middle to its end with probability ``fim_rate``; a document without text stays as it is."""
    if not (config.fim_rate and document.num_characters):
        return document
    ((text, _),) = document.parts
    hashed = hashlib.blake2b(digest_size=32, person=b"middle last")
    for block in blocks_of(text):
        hashed.update(block.encode())
    digest = hashed.digest()
    applies, order, *cuts = (int.from_bytes(digest[start : start + 8], "little") for start in range(0, 32, 8))
    if applies >= config.fim_rate * 2**64:
        return document
    low, high = sorted(cut % (len(text) + 1) for cut in cuts)
    prefix, middle, suffix = text[:low], text[low:high], text[high:]
    before_prefix, before_suffix, before_middle = config.fim_markers
    parts: tuple[tuple[tuple[str, ...], Text, str], ...]
    before_middle_text, before_suffix_text = end_of(text, low), end_of(text, high)
    if order < config.fim_spm_fraction * 2**64:
        parts = (
            ((before_prefix, before_suffix), suffix, before_suffix_text),
            ((before_middle,), prefix, ""),
            ((), middle, before_middle_text),
        )
    else:
        parts = (
            ((before_prefix,), prefix, ""),
            ((before_suffix,), suffix, before_suffix_text),
            ((before_middle,), middle, before_middle_text),
        )
    return dataclasses.replace(
        document,
        markers=tuple(markers for markers, _, _ in parts),
        parts=tuple((part, 1.0) for _, part, _ in parts),
        befores=tuple(before for _, _, before in parts),
    )
