"""What kernels written by hand (Pallas) take, of which the compiler knows nothing: FLOPs over a share of the peak."""

import dataclasses
import re

from lmjax.compile.hlo import Instruction, Program, array_sizes

TARGET = "tpu_custom_call"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Efficiency:
    """How near the peak a kernel comes.

    Attributes:
      products: matrix products it makes of a pair of blocks.
      share: of the peak, by the schedule of its inner loop without stalls of memory.
      width: head width it was counted at.
    """

    products: int
    share: float
    width: int


EFFICIENCIES = {
    "interval_attention_forward": Efficiency(products=2, share=0.44, width=64),
    "interval_attention_backward": Efficiency(products=5, share=0.80, width=64),
}
"""By name of the kernel; counted on a v5e."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelCost:
    """A kernel's estimate.

    Attributes:
      name: of the kernel; empty where it is not known.
      flops: of one call; None where the kernel is not known.
      seconds: of one call; 0 where it is not known.
      assumed: what the estimate takes for granted, empty where it was counted.
    """

    name: str
    flops: float | None
    seconds: float
    assumed: str


def is_kernel(one: Instruction) -> bool:
    """Whether an instruction is a kernel written by hand."""
    return one.opcode == "custom-call" and f'custom_call_target="{TARGET}"' in one.text


def kernel_cost(
    program: Program, computation: str, one: Instruction, *, peak_flops: float, visible_share: float, is_v5e: bool
) -> KernelCost:
    """Returns the estimate of a call of a kernel.

    Args:
      program: the program.
      computation: where the call stands.
      one: the call.
      peak_flops: of the chip, a second.
      visible_share: of all pairs of query and key, those the mask shows.
      is_v5e: whether the chip is the one that the efficiencies were counted on.
    """
    name = next((known for known in EFFICIENCIES if known in one.text), "")
    if not name:
        return KernelCost(
            name=_label(one), flops=None, seconds=0.0, assumed="a kernel that is not known counts nothing"
        )
    efficiency = EFFICIENCIES[name]
    shapes = {other.name: other.shape for other in program.computations[computation]}
    arrays = [sizes for operand in one.operands for _, sizes in array_sizes(shapes.get(operand, ""))]
    query = next(sizes for sizes in arrays if len(sizes) == 5)
    key, value = [sizes for sizes in arrays if len(sizes) == 4 and sizes[:2] == query[:2]][:2]
    batch, kv_heads, num_blocks, width, rows = query
    num_keys = key[3]
    mean_width = (width + value[2]) / 2
    # Blocks are worked on whole, so that at the edge of the mask half a block more is.
    share = min(visible_share + 0.5 * min(512, num_keys) / num_keys, 1.0)
    pairs = batch * kv_heads * num_blocks * rows * num_keys * share
    flops = 2 * efficiency.products * pairs * mean_width
    same = is_v5e and width == efficiency.width
    assumed = f"{name}: {efficiency.share:.0%} of the peak" + (
        "" if same else f", as counted on v5e at head width {efficiency.width}, not here"
    )
    return KernelCost(name=name, flops=flops, seconds=flops / (efficiency.share * peak_flops), assumed=assumed)


def _label(one: Instruction) -> str:
    found = re.search(r'"kernel_name":"([^"]+)"', one.text)
    return found[1] if found else one.op_name.rpartition("/")[2] or one.name
