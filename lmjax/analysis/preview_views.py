"""The records that describe rows as the model sees them, to be shown as text or as a picture.

Axes: W positions that are shown.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StreamView:
    """The W positions to show of one row of a stream, see :func:`lmjax.analysis.preview_structure.choose_shown`.

    Attributes:
      name: the stream's part in the model, such as the encoder's input.
      length: T, the number of positions, of which W are shown.
      index_W: the positions of the row that are shown, ascending.
      scored_left_out: number of scored positions that are not shown.
      tokens: a readable label of each token.
      original: the label of the data's token where another token replaces it, else "".
      targets: the label of the token to predict, "" where there is none.
      weights: for each term, float [W] raw weights; NaN where the term has no value.
      numbers: further values by name, [W].
      vectors: further vectors by name, [W, D].
      documents_W: number of each position's document from 1, 0 for padding.
      positions_W: the position of each token that the model is given.
      special_W: whether a token is special.
      changed_W: whether a token differs from the data's.
      prefix_W: whether a position lies in a prefix, a span read in both directions while the rest is not.
      ahead_W: whether a position sees later ones.
      scored_W: whether the target counts.
      attention: for each mask, bool [W, W of its keys], whether a query sees a key.
    """

    name: str
    length: int
    index_W: np.ndarray
    scored_left_out: int
    tokens: list[str]
    original: list[str]
    targets: list[str]
    weights: dict[str, np.ndarray]
    numbers: dict[str, np.ndarray]
    vectors: dict[str, np.ndarray]
    documents_W: np.ndarray
    positions_W: np.ndarray
    special_W: np.ndarray
    changed_W: np.ndarray
    prefix_W: np.ndarray
    ahead_W: np.ndarray
    scored_W: np.ndarray
    attention: dict[str, np.ndarray]

    @property
    def has_other_data(self) -> bool:
        """Whether some of the data's tokens would not be shown otherwise, neither as tokens nor as targets."""
        return any(o not in ("", target) for o, target in zip(self.original, self.targets, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RowView:
    """One row: the data, the streams made of it, and values that belong to no position.

    Attributes:
      heading: a heading that names the row.
      data: label of each of the first W tokens of the data.
      data_length: number of tokens of the data, of which W are shown.
      data_documents_W: the number of each token's document, 0 for padding.
      streams: the streams; the encoder's comes first.
      details: descriptions of further arrays.
    """

    heading: str
    data: list[str]
    data_length: int
    data_documents_W: np.ndarray
    streams: list[StreamView]
    details: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Preview:
    """The rows to show, under a heading."""

    title: str
    summary: str
    rows: list[RowView]
