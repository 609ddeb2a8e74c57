"""Attention behind one function; see :func:`lmjax.kernels.attention.dispatch.attend`."""

from lmjax.kernels.attention.dispatch import attend
from lmjax.kernels.attention.position_bias import AlibiBias, PositionBias, RelativeBias

__all__ = ["AlibiBias", "PositionBias", "RelativeBias", "attend"]
