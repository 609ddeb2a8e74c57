"""Every attention backend against the dense one on this device: output and gradients, packed and not.

The dense backend computes in float32 at the highest precision of products. The error of an array is the norm of its
difference over the norm of the dense one. A backend that refuses a mask says so, which is no failure.
"""

import argparse
import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from attention_case import segments
from report import add

from lmjax import masks
from lmjax.kernels.attention.dispatch import Backend, attend

PART = "parity of attention"
TOLERANCE = {"float32": 3e-3, "bfloat16": 2e-2}
"""Largest error: of bfloat16's rounding, and in float32 of TensorFloat-32's."""
KINDS = ("packed", "causal", "packed both ways", "full", "packed window", "window", "packed prefix")


def make_mask(kind: str, length: int, rows: int) -> masks.IntervalMask:
    """A mask by its name; packed rows hold several documents and padding."""
    segments_BT = jnp.asarray(segments(rows, length, documents=4))
    if kind in ("causal", "full"):
        return {"causal": masks.causal, "full": masks.bidirectional}[kind](length)
    if kind == "window":
        return masks.windowed(masks.causal(length), length // 4)
    if kind == "packed both ways":
        return masks.packed(segments_BT, "bidirectional")
    if kind == "packed prefix":
        start_BT, end_BT = masks.document_bounds(segments_BT)
        return masks.packed(segments_BT, "prefix", prefix_end_BT=start_BT + (end_BT - start_BT) // 3)
    packed = masks.packed(segments_BT)
    return masks.windowed(packed, length // 8) if kind == "packed window" else packed


@functools.partial(jax.jit, static_argnames="backend")
def outputs(inputs, weight_BTNH: jax.Array, mask: masks.IntervalMask, backend: Backend):
    """Output and gradients by query, key and value."""

    def loss(query, key, value):
        output = attend(query, key, value, mask, backend=backend)
        return jnp.sum(output.astype(jnp.float32) * weight_BTNH), output

    gradients, output = jax.grad(loss, (0, 1, 2), has_aux=True)(*inputs)
    return output, *gradients


def largest_error(found, wanted) -> float:
    """The largest relative error among the arrays; infinite if one of them is not finite."""
    errors = [
        np.linalg.norm(np.float64(f) - np.float64(w)) / np.linalg.norm(np.float64(w))
        for f, w in zip(found, wanted, strict=True)
    ]
    return float(max(errors)) if np.all(np.isfinite(errors)) else float("inf")


def main() -> None:
    """Compares, and exits with 1 if an error is too large."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    length, rows, width = (64, 2, 16) if options.tiny else (1024, 2, 128)
    kinds = KINDS[: 1 if options.tiny else None]
    wrong = 0
    for dtype in ("bfloat16", "float32"):
        keys = jax.random.split(jax.random.key(0), 4)
        heads = (8, 2, 2, 8)
        query, key, value, weight = (
            jax.random.normal(k, (rows, length, n, width)).astype(dtype) for k, n in zip(keys, heads, strict=True)
        )
        wide = [array.astype(jnp.float32) for array in (query, key, value)]
        # Compiling is what takes the time, so the dtype that is not trained in has two kinds.
        for kind in kinds if dtype == "bfloat16" else kinds[:2]:
            mask = make_mask(kind, length, rows)
            with jax.default_matmul_precision("highest"):
                wanted = outputs(wide, weight.astype(jnp.float32), mask, "xla")
            for backend in [name for name in get_args(Backend) if name not in ("xla", "auto")]:
                try:
                    found = outputs((query, key, value), weight.astype(jnp.float32), mask, backend)
                except ValueError as refusal:
                    add(options.output, part=PART, case=f"{kind}, {dtype}", side=backend, missing=str(refusal))
                    continue
                error = largest_error(found, wanted)
                verdict = "ok" if error <= TOLERANCE[dtype] else "WRONG"
                wrong += verdict != "ok"
                add(options.output, part=PART, case=f"{kind}, {dtype}", side=backend, error=error, verdict=verdict)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
