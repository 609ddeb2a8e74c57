"""Finds what a batch does not state but a reader wants to see: documents, replaced tokens, prefixes.

Each is found from the arrays of one row, so it works for any objective.
"""

import numpy as np

PADDING = 4
"""Number of padding positions to show at the end of a row."""

AROUND = 3
"""Number of positions to show on each side of scored ones in a long row."""

MOST = 10
"""Of a long row, at most this many times the width is shown."""


def choose_shown(documents_T: np.ndarray, wanted_T: np.ndarray, *, width: int) -> np.ndarray:
    """Returns the positions of a row to show, int [W], ascending.

    A row of at most ``width`` positions is shown whole, except most of its padding. Of a longer row the wanted
    positions are shown with ``AROUND`` neighbours on each side, up to ``MOST * width`` positions. Where nothing is
    wanted, or nearly everything, the first ``width`` positions are shown.

    Args:
      documents_T: number of each position's document, 0 for padding.
      wanted_T: bool, whether a position should be shown, for example because it is scored.
      width: see above.
    """
    (real,) = np.nonzero(documents_T)
    length = min(len(documents_T), PADDING + (real[-1] + 1 if len(real) else 0))
    wanted_T = wanted_T[:length] & (documents_T[:length] > 0)
    # The last positions of one or two documents may have nothing to predict, so not all need be wanted.
    is_throughout = wanted_T.sum() >= 0.9 * len(real)
    if length <= width or not wanted_T.any() or is_throughout:
        return np.arange(min(length, width))
    near_T = np.convolve(wanted_T, np.ones(2 * AROUND + 1), mode="same") > 0
    return np.flatnonzero(near_T)[: MOST * width]


def find_documents(tokens_T: np.ndarray, positions_T: np.ndarray, pad_id: int | None) -> np.ndarray:
    """Returns the number of each position's document, from 1, and 0 for padding.

    A document begins where the position is not one more than the position before.
    """
    begins_T = np.diff(positions_T, prepend=positions_T[0] - 2) != 1
    is_pad_T = tokens_T == (pad_id or 0)
    is_padding = np.logical_and.reduceat(is_pad_T, np.flatnonzero(begins_T))
    documents_T = (np.cumsum(~is_padding) * ~is_padding)[np.cumsum(begins_T) - 1]
    if pad_id is not None:
        documents_T[np.logical_and.accumulate(is_pad_T[::-1])[::-1]] = 0
    return documents_T


def find_changed(
    tokens_T: np.ndarray, original_T: np.ndarray, documents_T: np.ndarray, explained_T: np.ndarray
) -> np.ndarray:
    """Returns whether each token differs from the data's, bool [T], in documents that are still at their place.

    A document counts as being at its place when most of its tokens equal the data's or are explained (masked, or
    with the data's token as target), and it does not continue after the end of the data (negative ids). In a
    document that was rearranged, a comparison would mean nothing.
    """
    same_T = tokens_T == original_T
    changed_T = np.zeros(len(tokens_T), bool)
    for document in np.unique(documents_T[documents_T > 0]):
        here_T = documents_T == document
        if (same_T | explained_T)[here_T].mean() > 0.5 and (original_T[here_T] >= 0).all():
            changed_T |= here_T & ~same_T
    return changed_T


def find_directions(end_T: np.ndarray, documents_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns whether each position sees later ones, and whether it lies in a prefix, both bool [T].

    A position lies in a prefix if it sees later positions or earlier ones see it. If this holds for the whole row,
    the row has no prefix; documents of one token, where it cannot hold, do not count in that test.

    Args:
      end_T: one past the last key each position sees.
      documents_T: see :func:`find_documents`.
    """
    index_T = np.arange(len(end_T))
    ahead_T = end_T > index_T + 1
    seen_early_T = np.concatenate([[False], np.maximum.accumulate(end_T)[:-1] > index_T[1:]])
    prefix_T = (ahead_T | seen_early_T) & (documents_T > 0)
    is_alone_T = np.bincount(documents_T)[documents_T] == 1
    is_everywhere = (prefix_T | is_alone_T | (documents_T == 0)).all()
    return ahead_T, np.zeros_like(prefix_T) if is_everywhere else prefix_T
