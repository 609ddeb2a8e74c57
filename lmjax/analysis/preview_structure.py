"""What a batch does not say outright and a reader wants to see: documents, replaced tokens, prefixes.

Each is read off one row's arrays, so that it holds for any objective.
"""

import numpy as np

PADDING = 4
"""Positions of padding to show at the end of a row."""

AROUND = 3
"""Positions to show on each side of what is scored in a long row."""

MOST = 10
"""A long row shows at most so many times the width."""


def choose_shown(documents_T: np.ndarray, wanted_T: np.ndarray, *, width: int) -> np.ndarray:
    """Returns the positions of a row to show, int [W], rising.

    A row of at most ``width`` positions is shown whole, but for most of its padding. Of a longer row the wanted
    positions are shown with ``AROUND`` neighbours on each side, up to ``MOST * width`` positions. Where nothing is
    wanted, or nearly everything, the first ``width`` positions are shown.

    Args:
      documents_T: number of each position's document, 0 for padding.
      wanted_T: positions that should be seen, as those that are scored.
      width: see above.
    """
    (real,) = np.nonzero(documents_T)
    length = min(len(documents_T), PADDING + (real[-1] + 1 if len(real) else 0))
    wanted_T = wanted_T[:length] & (documents_T[:length] > 0)
    # The last position of a document or two may have nothing to predict.
    is_throughout = wanted_T.sum() >= 0.9 * len(real)
    if length <= width or not wanted_T.any() or is_throughout:
        return np.arange(min(length, width))
    near_T = np.convolve(wanted_T, np.ones(2 * AROUND + 1), mode="same") > 0
    return np.flatnonzero(near_T)[: MOST * width]


def find_documents(tokens_T: np.ndarray, positions_T: np.ndarray, pad_id: int | None) -> np.ndarray:
    """Document numbers from 1: a document begins where positions do not go on; 0 for padding."""
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
    """Tokens that are not the data's, in the documents that were left at their place.

    A document counts as such when most of its tokens are the data's or are explained (masked, or
    with the data's token as target) and it does not go on where the data have ended (negative ids); in
    one that was rearranged a comparison would say nothing.
    """
    same_T = tokens_T == original_T
    changed_T = np.zeros(len(tokens_T), bool)
    for document in np.unique(documents_T[documents_T > 0]):
        here_T = documents_T == document
        if (same_T | explained_T)[here_T].mean() > 0.5 and (original_T[here_T] >= 0).all():
            changed_T |= here_T & ~same_T
    return changed_T


def find_directions(end_T: np.ndarray, documents_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which positions see later ones, and which lie in a prefix.

    A prefix is what sees ahead or is seen from before, in a row where not all positions are so; a
    document of one token can be neither and does not tell.

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
