"""An estimate of how much of a corpus is there more than once, by the tokens of documents.

Axes: N tokens of a document, S sequences of five tokens, P permutations.
"""

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np

from lmjax.data.rows.shard_reader import TokenShards

MOST_DOCUMENTS = 200_000
"""Documents that are compared as a whole; of a larger split as many are taken, evenly spread."""
MOST_SIGNED = 2_000
"""Documents whose MinHash signatures are compared."""
MOST_TOKENS = 4096
"""Tokens of a document that are looked at."""
SHINGLE, PERMUTATIONS, BANDS = 5, 64, 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Shares of the documents that repeat another one of the sample.

    Attributes:
      compared: number of documents that were compared as a whole.
      exact: share of them whose tokens are those of an earlier one.
      signed: number of documents that were compared by MinHash.
      near: share of them that have at least about three quarters of their five-token sequences in common with an
        earlier one, exact copies included.
    """

    compared: int
    exact: float
    signed: int
    near: float


def estimate_duplicates(shards: TokenShards) -> Duplicates:
    """Returns the shares of exact and near duplicates in a sample of a split.

    In a sample of a share ``r`` of the documents, a document of which there are two copies meets the other one with
    probability ``r`` only, so the shares are lower bounds where the split is larger than the sample.

    Near duplicates are found as in Broder 1997, *On the resemblance and containment of documents*: two documents are
    candidates if all four values of one of 16 bands of 64 MinHash values are the same.
    """
    seen: set[bytes] = set()
    compared = repeated = 0
    for tokens_N in sample_documents(shards, MOST_DOCUMENTS):
        digest = hashlib.blake2b(tokens_N.tobytes(), digest_size=16).digest()
        compared, repeated = compared + 1, repeated + (digest in seen)
        seen.add(digest)
    bands: set[tuple[int, bytes]] = set()
    signed = near = 0
    for tokens_N in sample_documents(shards, MOST_SIGNED):
        values = minhash(tokens_N).reshape(BANDS, -1)
        own = {(band, row.tobytes()) for band, row in enumerate(values)}
        signed, near = signed + 1, near + bool(own & bands)
        bands |= own
    return Duplicates(compared=compared, exact=repeated / compared, signed=signed, near=near / signed)


def sample_documents(shards: TokenShards, most: int) -> Iterator[np.ndarray]:
    """Yields the tokens, int32 [N], of up to ``most`` documents, evenly spread over a split; long ones are cut."""
    count = min(most, shards.num_documents)
    wanted = np.arange(count) * shards.num_documents // count
    first = 0
    for number, shard in enumerate(shards.shards):
        bounds = shards.document_bounds(number)
        own = wanted[(wanted >= first) & (wanted < first + shard.documents)] - first
        for begin, end in zip(bounds[own].tolist(), bounds[own + 1].tolist(), strict=True):
            tokens_N = np.empty(min(end - begin, MOST_TOKENS), np.int32)
            shards.read_tokens(shards.shard_start(number) + begin, tokens_N)
            yield tokens_N
        first += shard.documents


_rng = np.random.default_rng(0)
_FACTORS_P = _rng.integers(1, 1 << 63, PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
_OFFSETS_P = _rng.integers(0, 1 << 63, PERMUTATIONS, dtype=np.uint64)
_MIX = np.uint64(0x9E3779B97F4A7C15)


def minhash(tokens_N: np.ndarray) -> np.ndarray:
    """Returns the MinHash values of a document, uint64 [64]; equal in a share of places that estimates the overlap.

    Args:
      tokens_N: the ids of the document; all sequences of five tokens that follow each other are its set.
    """
    windows = np.lib.stride_tricks.sliding_window_view(tokens_N, min(SHINGLE, len(tokens_N)))
    hashes_S = np.zeros(len(windows), np.uint64)
    for column in windows.T:
        hashes_S = (hashes_S ^ column.astype(np.uint64)) * _MIX
        hashes_S ^= hashes_S >> np.uint64(29)
    hashes_PS = hashes_S[None] * _FACTORS_P[:, None] + _OFFSETS_P[:, None]
    return (hashes_PS ^ hashes_PS >> np.uint64(32)).min(axis=1)
