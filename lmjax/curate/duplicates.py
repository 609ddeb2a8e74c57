"""Documents of which there are copies: exact ones, and near ones by MinHash; the first of each cluster stays.

Axes: N documents, H hash values. Two documents that share a key are in one cluster.
"""

import abc
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import scipy.sparse

from lmjax.curate.rule import Rule, require
from lmjax.curate.words import make_words

Keys = Callable[[str], list[bytes]]
"""Returns the keys of a text, 16 bytes each."""
KEY_BYTES = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duplicates(Rule, abc.ABC):
    """Base class of the rules that compare documents with all others; of each cluster the first document stays."""

    @property
    @abc.abstractmethod
    def num_keys(self) -> int:
        """The number of keys of a document."""

    @abc.abstractmethod
    def keys(self) -> Keys:
        """Returns the function that makes the keys of a text; each process makes its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactDuplicates(Duplicates):
    """Drops documents with the text of an earlier one."""

    simplified: bool = False
    """Compare texts without case, punctuation, accents, the values of numbers, and the kind of white space."""

    @property
    def name(self) -> str:
        """The name in reports."""
        return f"ExactDuplicates{' (simplified)' if self.simplified else ''}"

    @property
    def num_keys(self) -> int:
        """One: a digest of the text."""
        return 1

    def keys(self) -> Keys:
        """Returns the function that digests a text."""
        if not self.simplified:
            return lambda text: [_digest(text.encode())]
        words_of = make_words()
        # A text of nothing but punctuation has no words, and is compared as it is.
        return lambda text: [_digest(" ".join(words_of(text)).encode() or b"\0" + text.encode())]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearDuplicates(Duplicates):
    """Drops documents that have most sequences of words in common with an earlier one, by MinHash (Broder 1997).

    Two documents whose sets of sequences have the Jaccard similarity ``s`` meet with probability
    ``1 - (1 - s^rows)^bands``: 0.77 at ``s = 0.75`` and 0.92 at ``s = 0.8`` with the defaults, which are FineWeb's.
    """

    words: int = 5
    """The length of a sequence."""
    bands: int = 14
    """The number of groups of hash values; documents that agree in one group are near duplicates."""
    rows: int = 8
    """The number of hash values in a group."""
    seed: int = 1
    """Decides the hash functions."""

    def __post_init__(self):
        for field in ("words", "bands", "rows"):
            if getattr(self, field) < 1:
                raise ValueError(f"NearDuplicates.{field}={getattr(self, field)}: must be at least 1")

    @property
    def num_keys(self) -> int:
        """The number of bands."""
        return self.bands

    def keys(self) -> Keys:
        """Returns the function that digests each band of a text's MinHash values (computed by rensa)."""
        signature_of = self.signatures()

        def keys(text: str) -> list[bytes]:
            signature_H = signature_of(text)
            if signature_H is None:
                return [_digest(b"%d\0" % band + text.encode()) for band in range(self.bands)]
            return [
                _digest(b"%d\0" % band + row.tobytes()) for band, row in enumerate(signature_H.reshape(-1, self.rows))
            ]

        return keys

    def signatures(self) -> Callable[[str], np.ndarray | None]:
        """Returns a function from a text to its MinHash values, uint32 [bands x rows]; None for one without words."""
        hasher, words_of = require("rensa").RMinHash, make_words()

        def signature(text: str) -> np.ndarray | None:
            words = words_of(text)
            if not words:
                return None
            values = hasher(num_perm=self.bands * self.rows, seed=self.seed)
            values.update(sequences(words, self.words))
            return np.asarray(values.digest(), np.uint32)

        return signature


def sequences(words: Sequence[str], length: int) -> list[str]:
    """Returns all sequences of so many words; the whole text if it has fewer."""
    return [" ".join(words[start : start + length]) for start in range(max(len(words) - length + 1, 1))]


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=KEY_BYTES).digest()


def clusters(columns: Iterable[np.ndarray], num_documents: int) -> np.ndarray:
    """Returns, int64 [N], the first document that each one is connected with by common keys; itself if it is alone.

    Documents that share a key are neighbours, and a cluster has all that can be reached from neighbour to neighbour.
    One column is in memory at a time; with what sorting takes, that is about 100 bytes a document.

    Args:
      columns: the keys of all documents, of type ``V16`` [N], one kind after the other; different kinds do not meet.
      num_documents: N.
    """
    label_N = np.arange(num_documents)
    for key_N in columns:
        halves_N2 = np.ascontiguousarray(key_N).view(np.uint64).reshape(-1, 2)
        order_N = np.lexsort((halves_N2[:, 1], halves_N2[:, 0]))
        sorted_N2 = halves_N2[order_N]
        same = (sorted_N2[1:] == sorted_N2[:-1]).all(axis=1)
        # Neighbours that an earlier column has joined have one label already.
        edges = label_N[order_N[:-1][same]], label_N[order_N[1:][same]]
        graph = scipy.sparse.coo_matrix((np.ones(len(edges[0]), bool), edges), shape=(num_documents, num_documents))
        label_N = scipy.sparse.csgraph.connected_components(graph, directed=False)[1][label_N]
    _, first, cluster_N = np.unique(label_N, return_index=True, return_inverse=True)
    return first[cluster_N]
