"""What has become of texts that are being written, as it is handed on."""

from collections.abc import Sequence

import numpy as np


class Progress:
    """The new tokens of each text since the last time, up to its end or its limit."""

    def __init__(self, prompt_lengths: Sequence[int], limits: Sequence[int], eos_id: int | None):
        """Begins with no new tokens.

        Args:
          prompt_lengths: the number of tokens of each prompt.
          limits: the largest number of new tokens of each text.
          eos_id: the token that ends a text; None if none does.
        """
        self._next = list(prompt_lengths)
        self._ends = [length + limit for length, limit in zip(prompt_lengths, limits, strict=True)]
        self._prompt_lengths, self._eos_id = prompt_lengths, eos_id
        self._done = [False] * len(limits)

    @property
    def ended(self) -> bool:
        """Whether all texts have ended."""
        return all(self._done)

    def pieces(self, tokens_BS: np.ndarray, num_new_B: np.ndarray) -> list[list[int]]:
        """Returns the ids that each text has gained, without the end-of-text id; none once it has ended.

        Args:
          tokens_BS: prompts and what was added.
          num_new_B: the number of tokens that were added to each.
        """
        pieces: list[list[int]] = []
        for row, prompt_length in enumerate(self._prompt_lengths):
            end = min(prompt_length + int(num_new_B[row]), self._ends[row])
            piece = [] if self._done[row] else tokens_BS[row, self._next[row] : end].tolist()
            self._next[row] = end
            if self._eos_id in piece:
                piece, self._done[row] = piece[: piece.index(self._eos_id)], True
            self._done[row] |= end >= self._ends[row]
            pieces.append(piece)
        return pieces
