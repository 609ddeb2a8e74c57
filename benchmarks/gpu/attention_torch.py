"""Attention of torch, for `attention_race.py`: serves calls of FlexAttention and of SDPA.

FlexAttention skips blocks of other documents by a block mask. SDPA takes `is_causal` for whole rows, on its flash
kernel, and a boolean mask of [T, T] for packed ones.
"""

import dataclasses
import functools

import torch
from attention_case import Case, segments
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from turns import serve

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@functools.cache
def prepared(case: Case):
    """The function of a case, and its inputs."""
    torch.manual_seed(0)
    inputs = [
        torch.randn(
            case.rows, n, case.length, case.width, device=DEVICE, dtype=torch.bfloat16, requires_grad=case.backward
        )
        for n in (case.heads, case.kv_heads, case.kv_heads)
    ]
    document = torch.tensor(segments(1, case.length, documents=case.documents)[0], device=DEVICE)
    # Rows are packed alike, so one mask serves all of them.
    if case.backend == "flex":

        def visible(batch, head, query, key):
            return (query >= key) & (document[query] == document[key])

        block_mask = create_block_mask(visible, None, None, case.length, case.length, device=DEVICE)
        # The number of shapes that one function may be compiled for is bounded. On a CPU only the eager form has
        # gradients.
        torch.compiler.reset()
        attention = torch.compile(flex_attention, dynamic=False) if DEVICE == "cuda" else flex_attention
        return lambda q, k, v: attention(q, k, v, block_mask=block_mask, enable_gqa=True), inputs
    if case.documents == 1:
        return lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), inputs
    index = torch.arange(case.length, device=DEVICE)
    mask = (index[:, None] >= index[None, :]) & (document[:, None] == document[None, :])
    group = case.heads // case.kv_heads

    def masked(query, key, value):
        # The kernel that takes a mask has no grouped heads.
        key, value = (array.repeat_interleave(group, dim=1) for array in (key, value))
        return scaled_dot_product_attention(query, key, value, attn_mask=mask)

    return masked, inputs


def call(request: dict) -> None:
    """Computes a case as often as it says."""
    case = Case(**request)
    function, inputs = prepared(dataclasses.replace(case, repeat=1))
    for _ in range(case.repeat):
        output = function(*inputs)
        if case.backward:
            torch.autograd.grad(output.float().sum(), inputs)
    if DEVICE == "cuda":
        torch.cuda.synchronize()


serve(call, facts={"versions": f"torch {torch.__version__}"})
