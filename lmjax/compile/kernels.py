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
GROUPED_SHARES = {
    "gmm": {"v5e": 0.87, "v5p": 0.87, "v6e": 0.61},
    "tgmm": {"v5e": 0.81, "v5p": 0.81, "v6e": 0.58},
}
"""Share of the peak of the products of :mod:`lmjax.kernels.grouped_tpu` by chip.

Counted as above for tiles of 512 rows and widths of 1,024. On v6e reading the matrices takes longer than multiplying.
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
    program: Program,
    computation: str,
    one: Instruction,
    *,
    peak_flops: float,
    visible_share: float,
    filled_share: float,
    kind: str,
) -> KernelCost:
    """Returns the estimate of a call of a kernel.

    Args:
      program: the program.
      computation: where the call stands.
      one: the call.
      peak_flops: of the chip, a second.
      visible_share: of all pairs of query and key, those the mask shows.
      filled_share: of the slots for tokens of a device's experts, those that are filled on average.
      kind: of the chip, as ``v5e``.
    """
    shapes = {other.name: other.shape for other in program.computations[computation]}
    arrays = [sizes for operand in one.operands for _, sizes in array_sizes(shapes.get(operand, ""))]
    found = re.search(r"interval_attention_(forward|backward)(_bias)?(_dropout)?", one.text)
    if found is not None:
        flops, width = _attention_flops(arrays, PRODUCTS[found[1]], visible_share)
        return _estimate(found[0], SHARES[found[0]], flops, peak_flops=peak_flops, kind=kind, width=width)
    found = re.search(r"jit\((t?gmm)\)", one.op_name)
    if found is not None:
        rows, others = [sizes for sizes in arrays if len(sizes) > 1][-2:]
        # The other operand is a matrix for each expert, or in the gradient of these, rows.
        widths = others[-2:] if found[1] == "gmm" else (rows[1], others[1])
        flops = 2 * rows[0] * filled_share * math.prod(widths)
        cost = _estimate(found[1], GROUPED_SHARES[found[1]], flops, peak_flops=peak_flops, kind=kind)
        return dataclasses.replace(cost, assumed=f"{cost.assumed}; tokens spread evenly over the experts")
    return KernelCost(name=_label(one), flops=None, seconds=0.0, assumed="a kernel that is not known counts nothing")


def _attention_flops(arrays: list, products: int, visible_share: float) -> tuple[float, float]:
    """Returns the FLOPs of a call, and the mean of the widths of keys and values; ``arrays`` are its operands."""
    query = next(sizes for sizes in arrays if len(sizes) == 5)
    key, value = [sizes for sizes in arrays if len(sizes) == 4 and sizes[:2] == query[:2]][:2]
    batch, kv_heads, num_blocks, width, rows = query
    num_keys = key[3]
    mean_width = (width + value[2]) / 2
    # Blocks are worked on whole, so that at the edge of the mask half a block more is.
    visible = min(visible_share + 0.5 * min(512, num_keys) / num_keys, 1.0)
    pairs = batch * kv_heads * num_blocks * rows * num_keys * visible
    return 2 * products * pairs * mean_width, mean_width


def _estimate(
    name: str, by_kind: dict, flops: float, *, peak_flops: float, kind: str, width: float | None = None
) -> KernelCost:
    counted = NEAREST.get(kind, kind)
    shares = by_kind[counted]
    if width is None:
        share, at, exact = shares, "", True
    else:
        near = min(shares, key=lambda known: abs(known - width))
        share, at, exact = shares[near], f" at head width {near}", near == width
    assumed = f"{name}: {share:.0%} of the peak, as counted on {counted}{at}"
    if counted != kind or not exact:
        assumed += f", not on {kind}" + ("" if width is None else f" at {width:g}")
    return KernelCost(name=name, flops=flops, seconds=flops / (share * peak_flops), assumed=assumed)


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
