"""The options for how a model is computed. They do not change what it computes."""

import dataclasses
from typing import Literal

from lmjax.field_types import check_literals
from lmjax.kernels.attention.dispatch import Backend, Context
from lmjax.kernels.low_precision import LowPrecision
from lmjax.models.lookup import TableGradient
from lmjax.models.remat import Remat


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How a model is computed on the devices.

    The function that a model computes depends on none of these fields, except for rounding. Two models that differ only
    here are the same model: each takes the weights of the other, and both are exported alike.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward and backward pass. Parameters are always float32."""
    scan_layers: bool = True
    """Compile one block and scan it over the depth. False unrolls the blocks, which is slower to compile and sometimes
    faster to run. The parameters of scanned blocks are stacked in one array, so a checkpoint depends on this field."""
    remat: Remat = "full"
    """What the backward pass computes again of a block: nothing (`none`), all but the results of matrix products
    (`dots`; `products` also keeps those of the attention kernel and keeps queries and keys after their rotation;
    `offload` keeps the same, but queries, keys, values and the kernel's output in the memory of the host), all but the
    results of the attention kernel (`flash`), or all (`full`)."""
    attention: Backend = "auto"
    """Attention backend, see :func:`lmjax.kernels.attention.dispatch.attend`."""
    context: Context = "gather"
    """How attention sees the rest of a row that `mesh.context` splits over devices: each device gathers the keys and
    values of the whole row (`gather`), or they pass from device to device while it computes (`ring`), so that none
    holds them all, and causal rows are divided evenly. Writing text with a cache always gathers."""
    table_gradient: TableGradient = "step"
    """How often devices sum the gradient of the token table: once a step (`step`), for which a device keeps a gradient
    of the whole table in float32 until all microbatches are done, and one more for a tied head; or in each microbatch
    (`microbatch`), which takes less memory and more time. It makes no difference with one microbatch."""
    low_precision: LowPrecision = "none"
    """Matrix products of attention and feed-forward layers in 8 bits: floats (`fp8`, on GPUs) or integers (`int8`, on
    TPUs); a CPU computes both, slowly. Embeddings, the head, experts and recurrences keep `dtype`. It needs the extra
    `low-precision`."""
    mamba2_chunk: int = 64
    """Tokens that a Mamba-2 layer works on together. It changes speed and memory."""
    rwkv6_chunk: int = 16
    """Tokens that an RWKV-6 layer works on together. Memory grows with it."""

    def __post_init__(self):
        check_literals(self, "model.execution.")
        for name in ("mamba2_chunk", "rwkv6_chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.execution.{name}={getattr(self, name)}: must be at least 1")


INTERCHANGEABLE = (
    "remat",
    "attention",
    "context",
    "table_gradient",
    "low_precision",
    "mamba2_chunk",
    "rwkv6_chunk",
)
"""Fields that a run may change when it goes on from a checkpoint: the state keeps its shapes and its meaning."""
