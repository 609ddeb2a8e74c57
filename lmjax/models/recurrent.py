"""The configurations of the mixers that have a state instead of keys and values."""

import dataclasses
from typing import Literal

Mixer = Literal["attention", "mamba2", "rwkv6"]

RECURRENT: tuple[Mixer, ...] = ("mamba2", "rwkv6")
"""The mixers that read from left to right, whatever the mask is."""


def _at_least_one(config: object, prefix: str) -> None:
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        if field.type is not bool and getattr(config, field.name) < 1:
            raise ValueError(f"{prefix}.{field.name}={getattr(config, field.name)}: must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mamba2Config:
    """Sizes of a Mamba-2 layer (Dao & Gu 2024, section 7)."""

    expansion: int = 2
    """Inner width over model width."""
    head_width: int = 64
    """Inner dimensions that share one decay and one state."""
    state_width: int = 128
    """Rows of each head's state."""
    groups: int = 1
    """Sets of keys and queries, each shared by as many heads."""
    convolution: int = 4
    """Tokens the short causal convolution sees."""
    convolution_bias: bool = False
    """A bias after the convolution (as released)."""

    def __post_init__(self):
        _at_least_one(self, "model.mamba2")
        if self.convolution < 2:
            raise ValueError(f"model.mamba2.convolution={self.convolution}: must be at least 2")

    def num_heads(self, width: int) -> int:
        """Returns the number of heads in a model of this width."""
        return self.expansion * width // self.head_width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rwkv6Config:
    """Sizes of an RWKV-6 layer (Peng et al. 2024, section 4)."""

    head_width: int = 64
    """Dimensions of a head, and rows of its state."""
    mix_rank: int = 32
    """Rank of the map that mixes each token with the one before it."""
    decay_rank: int = 64
    """Rank of the map that makes decays of tokens."""

    def __post_init__(self):
        _at_least_one(self, "model.rwkv6")
