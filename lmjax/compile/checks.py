"""What must not be in the compiled step of a large recipe."""

import math

import jax

from lmjax.compile.hlo import array_sizes, num_bytes, uses
from lmjax.compile.step import CompiledStep
from lmjax.kernels.attention.dispatch import DENSE_LIMIT

SMALL = 2**20
"""Bytes below which a layout is nobody's concern."""


def faults(step: CompiledStep) -> list[str]:
    """Returns what is wrong with a compiled step, a sentence each; empty where nothing is."""
    found = []
    if step.memory is None:
        found.append(f"does not fit: {step.refusal.splitlines()[0]}")
    elif step.memory.peak > step.topology.chip.hbm_bytes:
        found.append(f"does not fit: {step.memory.peak:,} of {step.topology.chip.hbm_bytes:,} bytes")
    found += [f"replicated optimizer moment: {name}" for name in replicated_moments(step)]
    found += [f"an array of all pairs of positions: {name}" for name in pair_arrays(step)]
    found += [f"gathered whole: {one}" for one in step.involuntary if num_bytes(one) >= SMALL]
    return found


def replicated_moments(step: CompiledStep) -> list[str]:
    """Returns the leaves of the optimizer's state that every device holds whole though their parameter is split."""
    state = step.learner.abstract_state
    split = {
        leaf.shape for leaf in jax.tree.leaves(state.params) if not leaf.sharding.is_fully_replicated
    }  # of one shape, as a moment is
    return [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if leaf.shape in split
        and leaf.sharding.is_fully_replicated
        and math.prod(leaf.shape) * leaf.dtype.itemsize >= SMALL
    ]


def pair_arrays(step: CompiledStep) -> list[str]:
    """Returns the arrays [T, T] of the program, of masks or logits; none for rows so short that they are meant to be.

    Raises:
      ValueError: T is also a width of the model, so that an array of that size says nothing.
    """
    length, model = step.config.train.sequence_length, step.config.model
    if length**2 <= DENSE_LIMIT["tpu"]:
        return []
    of_heads = {
        model.num_heads * model.key_width,
        model.num_heads * model.value_width,
        model.kv_heads * model.key_width,
    }
    widths = {model.width, model.hidden_width, model.vocab_size} | of_heads
    if length in widths:
        raise ValueError(f"train.sequence_length={length} is a width of the model too: check at another length")
    if step.program is None:
        return []
    found = {
        f"{kind}{list(sizes)} {use.instruction.op_name}"
        for use in uses(step.program)
        for kind, sizes in array_sizes(use.instruction.shape)
        if sum(size == length for size in sizes) > 1
    }
    return sorted(found)
