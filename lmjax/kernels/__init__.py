"""Attention behind one function; see :func:`lmjax.kernels.attention.attend`."""

from lmjax.kernels.attention import attend
from lmjax.kernels.position_bias import AlibiBias, PositionBias, RelativeBias

__all__ = ["AlibiBias", "PositionBias", "RelativeBias", "attend"]
