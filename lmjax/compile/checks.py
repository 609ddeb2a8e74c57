"""What must not be in the compiled step of a large recipe."""

import dataclasses
import math
import re

import jax

from lmjax.compile.hlo import array_sizes, num_bytes
from lmjax.compile.step import CompiledStep, lower, resolved_learner
from lmjax.compile.uses import uses
from lmjax.kernels.attention.dispatch import DENSE_LIMIT
from lmjax.models.config import ModelConfig

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

    Where T is also a width of the model, an array of that size says nothing. The step is then lowered once more, for
    rows of another length, and the program before its optimisation is searched.
    """
    length = step.config.train.sequence_length
    if length**2 <= DENSE_LIMIT["tpu"]:
        return []
    if length in widths_of(step.config.model):
        return pair_arrays_of_text(*lowered_at_another_length(step))
    if step.program is None:
        return []
    found = {
        f"{kind}{list(sizes)} {use.instruction.op_name}"
        for use in uses(step.program)
        for kind, sizes in array_sizes(use.instruction.shape)
        if sum(size == length for size in sizes) > 1
    }
    return sorted(found)


def widths_of(model: ModelConfig) -> set[int]:
    """Returns the sizes of the model's arrays that a length of rows may be mistaken for."""
    heads, widths = (model.num_heads, model.kv_heads), (model.key_width, model.value_width)
    of_heads = {number * width for number in heads for width in widths}
    expert = model.experts.width or model.hidden_width
    return {model.width, model.hidden_width, model.vocab_size, expert, model.experts.shared * expert} | of_heads


def lowered_at_another_length(step: CompiledStep) -> tuple[str, int]:
    """Returns the step as jax hands it to the compiler, for rows whose length is no width of the model, and the length.

    Raises:
      ValueError: there is no such length below that of the recipe.
    """
    length, widths = step.config.train.sequence_length, widths_of(step.config.model)
    parts = 128 * dict(step.learner.mesh.shape)["context"]
    shortest = math.isqrt(DENSE_LIMIT["tpu"])  # up to which all pairs are meant to be there
    other = next((shorter for shorter in range(length - parts, shortest, -parts) if shorter not in widths), None)
    if other is None:
        raise ValueError(f"train.sequence_length={length} is a width of the model too: check at another length")
    train = dataclasses.replace(step.config.train, sequence_length=other)
    lowered = lower(*resolved_learner(dataclasses.replace(step.config, train=train), step.topology))
    return lowered.as_text(), other


def pair_arrays_of_text(text: str, length: int) -> list[str]:
    """Returns the arrays [T, T] of a program in the form that jax hands to the compiler."""
    found = {
        shape for shape in re.findall(r"tensor<([\dx]+x[a-z]\w*)>", text) if shape.split("x").count(str(length)) > 1
    }
    return sorted(found)
