"""Sizes of multi-head latent attention (DeepSeek-V2, section 2.1)."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Sizes of attention whose keys and values are made of one narrow vector for each token.

    `model.head_width` is the width of the part of a key that does not turn. If `model.width_base` is set, the ranks are
    assumed to grow with the width of the model.
    """

    rank: int = 0
    """Width of the vector that a token's keys and values are made of, and that is kept while decoding (DeepSeek-V3:
    512); 0 is ordinary attention."""
    query_rank: int | None = None
    """Width of the vector that queries are made of (DeepSeek-V3: 1536); unset, they are made of the states."""
    rope_width: int = 64
    """Dimensions added to each query and key that turn with the position; all heads share those of the keys."""
    value_width: int | None = None
    """Width of a head's values; `model.head_width` when unset."""
    norm_epsilon: float = 1e-6
    """Added to the variance in the norms of the narrow vectors."""

    def __post_init__(self):
        if self.rank < 0:
            raise ValueError(f"model.latent.rank={self.rank}: must be positive, or 0 for ordinary attention")
        for name in ("query_rank", "value_width"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"model.latent.{name}={getattr(self, name)}: must be at least 1, or None")
        if self.rope_width < 2 or self.rope_width % 2:
            raise ValueError(f"model.latent.rope_width={self.rope_width}: must be an even number from 2")
        if self.norm_epsilon <= 0:
            raise ValueError(f"model.latent.norm_epsilon={self.norm_epsilon}: must be positive")
