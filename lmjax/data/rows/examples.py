"""One example in each row: a document, or several that belong together, each in its own part of the row.

An example of M members (``data.members``: a query and its answer, a chosen and a rejected reply) is M
consecutive documents of the shards. Its row has M parts of equal length. Member m is at the beginning of part m as
segment m, followed by padding (segment 0). The members are never separated: the split into training and validation,
the order and the batches are made of whole examples.

If the members do not fit, tokens are first removed from the beginning of the prompt (the tokens of weight 0 with
which the members begin), equally from all members and at most all but its last token, and then from the end of each
member. A beginning-of-text token (``data.add_bos``) stays, and the prompt is cut after it.
"""

import bisect
import itertools

import numpy as np

from lmjax.data.rows.order import epoch_permutation
from lmjax.data.rows.shard_reader import TokenShards
from lmjax.data.rows.source import RowSource


class ExampleRows(RowSource):
    """Each example once an epoch, in an order computed from (seed, epoch); without a seed in that of the shards."""

    has_segments = True

    def __init__(self, shards: TokenShards, *, row_length: int, block_length: int | None = None, seed: int | None):
        """Makes rows of ``row_length``, a multiple of the number of members.

        Raises:
          ValueError: the members cannot share the row equally, or the length of rows changes during the run.
        """
        self.num_members = max(len(shards.members), 1)
        if row_length < 1 or row_length % self.num_members:
            raise ValueError(
                f"row_length={row_length}: must be a multiple of the {self.num_members} texts of an example"
            )
        if block_length not in (None, row_length):
            raise ValueError(
                f"data.packing=examples: an example is a row of {row_length} tokens, which cannot be part of one of "
                f"{block_length}: train at one length, or use another packing"
            )
        assert not any(shard.documents % self.num_members for shard in shards.shards), (
            "a shard begins within an example"
        )
        self.shards = shards
        self.row_length = row_length
        self.has_weights = shards.weighted
        self._seed = seed
        self._num_bos = int(bool(shards.manifest.settings.get("add_bos")))
        self._ends = list(itertools.accumulate((s.documents // self.num_members for s in shards.shards), initial=0))

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, index: int) -> tuple[int, int]:
        """Returns (epoch, example) of row ``index``."""
        epoch, within = divmod(index, len(self))
        return epoch, within if self._seed is None else epoch_permutation(len(self), self._seed, epoch)(within)

    def read(
        self, index: int, tokens_T: np.ndarray, segments_T: np.ndarray | None, weights_T: np.ndarray | None
    ) -> None:
        """Writes the members, each at the beginning of its part."""
        assert segments_T is not None
        starts, lengths = self._stretches(self.locate(index)[1])
        room = self.row_length // self.num_members
        skipped = self._skipped_prompt(starts[0], lengths, room)
        tokens_T[:] = self.shards.manifest.pad_id
        segments_T[:] = 0
        if weights_T is not None:
            weights_T[:] = 0.0
        num_kept = self._num_bos if skipped else 0
        for member, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            begin, end = member * room, member * room + min(length - skipped, room)
            segments_T[begin:end] = member + 1
            for part, place in (
                (slice(begin, begin + num_kept), start),
                (slice(begin + num_kept, end), start + num_kept + skipped),
            ):
                self.shards.read_tokens(place, tokens_T[part])
                if weights_T is not None:
                    self.shards.read_weights(place, weights_T[part])

    def _stretches(self, example: int) -> tuple[list[int], list[int]]:
        """Returns each member's place in the stream and its number of tokens."""
        number = bisect.bisect_right(self._ends, example) - 1
        first = (example - self._ends[number]) * self.num_members
        bounds = self.shards.document_bounds(number)[first : first + self.num_members + 1]
        return (self.shards.shard_start(number) + bounds[:-1]).tolist(), np.diff(bounds).tolist()

    def _skipped_prompt(self, start: int, lengths: list[int], room: int) -> int:
        """Returns how many tokens to leave out of every member after its beginning-of-text token."""
        excess = max(lengths) - room
        if excess <= 0 or not self.shards.weighted:
            return 0
        weights = np.empty(min(min(lengths), excess + self._num_bos + 1), np.float32)
        self.shards.read_weights(start, weights)
        prompt = int(np.argmax(weights > 0)) if weights.any() else len(weights)
        return min(excess, max(prompt - self._num_bos - 1, 0))
