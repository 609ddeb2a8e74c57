"""What kernels written by hand (Pallas) take, of which the compiler knows nothing: FLOPs over a share of the peak."""

import dataclasses
import itertools
import math
import re

from lmjax.compile.hlo import Instruction, Program, array_sizes

TARGET = "tpu_custom_call"

PRODUCTS = {"forward": 2, "backward": 5}
"""Matrix products that a kernel makes of a pair of blocks, by the word in its name."""

SHARES = {
    "interval_attention_forward": {
        "v5e": {64: 0.37, 128: 0.62},
        "v5p": {64: 0.37, 128: 0.62},
        "v6e": {64: 0.13, 128: 0.25},
    },
    "interval_attention_forward_bias": {
        "v5e": {64: 0.35, 128: 0.60},
        "v5p": {64: 0.36, 128: 0.60},
        "v6e": {64: 0.126, 128: 0.24},
    },
    "interval_attention_forward_dropout": {
        "v5e": {64: 0.28, 128: 0.51},
        "v5p": {64: 0.28, 128: 0.51},
        "v6e": {64: 0.09, 128: 0.18},
    },
    "interval_attention_forward_bias_dropout": {
        "v5e": {64: 0.27, 128: 0.49},
        "v5p": {64: 0.27, 128: 0.49},
        "v6e": {64: 0.09, 128: 0.17},
    },
    "interval_attention_backward": {
        "v5e": {64: 0.66, 128: 0.94},
        "v5p": {64: 0.65, 128: 0.94},
        "v6e": {64: 0.25, 128: 0.49},
    },
    "interval_attention_backward_bias": {
        "v5e": {64: 0.58, 128: 0.86},
        "v5p": {64: 0.57, 128: 0.87},
        "v6e": {64: 0.23, 128: 0.45},
    },
    "interval_attention_backward_dropout": {
        "v5e": {64: 0.49, 128: 0.79},
        "v5p": {64: 0.49, 128: 0.79},
        "v6e": {64: 0.16, 128: 0.30},
    },
    "interval_attention_backward_bias_dropout": {
        "v5e": {64: 0.46, 128: 0.73},
        "v5p": {64: 0.46, 128: 0.73},
        "v6e": {64: 0.15, 128: 0.29},
    },
}
"""Share of the peak by kernel (:func:`lmjax.kernels.attention.tpu_blocks.kernel_name`), kind of chip and head width.

The compiler's static schedule of a pair of blocks of 512 keys and 1,024 query rows that see each other whole was
counted, in cycles and with those in which nothing is issued; stalls of memory are not in it. On a v5p each of the two
cores runs half of the grid, forward and backward.
"""
NEAREST = {"v4": "v5p"}
"""Kinds of chips whose kernels were not counted, and the kind with matrix units of the same size."""


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
    program: Program, computation: str, one: Instruction, *, peak_flops: float, visible_share: float, kind: str
) -> KernelCost:
    """Returns the estimate of a call of a kernel.

    Args:
      program: the program.
      computation: where the call stands.
      one: the call.
      peak_flops: of the chip, a second.
      visible_share: of all pairs of query and key, those the mask shows.
      kind: of the chip, as ``v5e``.
    """
    found = re.search(r"interval_attention_(forward|backward)(_bias)?(_dropout)?", one.text)
    if found is None:
        return KernelCost(
            name=_label(one), flops=None, seconds=0.0, assumed="a kernel that is not known counts nothing"
        )
    name = found[0]
    shapes = {other.name: other.shape for other in program.computations[computation]}
    arrays = [sizes for operand in one.operands for _, sizes in array_sizes(shapes.get(operand, ""))]
    query = next(sizes for sizes in arrays if len(sizes) == 5)
    key, value = [sizes for sizes in arrays if len(sizes) == 4 and sizes[:2] == query[:2]][:2]
    batch, kv_heads, num_blocks, width, rows = query
    num_keys = key[3]
    mean_width = (width + value[2]) / 2
    # Blocks are worked on whole, so that at the edge of the mask half a block more is.
    visible = min(visible_share + 0.5 * min(512, num_keys) / num_keys, 1.0)
    pairs = batch * kv_heads * num_blocks * rows * num_keys * visible
    flops = 2 * PRODUCTS[found[1]] * pairs * mean_width
    counted = NEAREST.get(kind, kind)
    shares = SHARES[name][counted]
    near = min(shares, key=lambda known: abs(known - mean_width))
    assumed = f"{name}: {shares[near]:.0%} of the peak, as counted on {counted} at head width {near}" + (
        "" if counted == kind and near == mean_width else f", not on {kind} at {mean_width:g}"
    )
    return KernelCost(name=name, flops=flops, seconds=flops / (shares[near] * peak_flops), assumed=assumed)


def attention_rounds(program: Program, visible_share: float) -> dict[str, int]:
    """Returns the rounds of the loops of chunked attention over blocks of keys, by the name of the loop.

    A loop takes as many rounds as its block of queries sees blocks of keys. Its name says how many there are in all
    (:meth:`lmjax.kernels.attention.key_blocks.KeyBlocks.scope`).

    Args:
      program: the program.
      visible_share: of all pairs of query and key, those the mask shows.
    """
    rounds = {}
    for one in itertools.chain.from_iterable(program.computations.values()):
        found = re.search(r"/key_blocks_(\d+)/[^/]*$", one.op_name) if one.opcode == "while" else None
        if found is not None:
            number = int(found[1])
            # At the edge of the mask half a block more is seen on average.
            rounds[one.name] = math.ceil(min(visible_share * number + 0.5, number))
    return rounds


def _label(one: Instruction) -> str:
    found = re.search(r'"kernel_name":"([^"]+)"', one.text)
    return found[1] if found else one.op_name.rpartition("/")[2] or one.name
