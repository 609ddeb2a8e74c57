"""The real training step of a recipe, compiled for chips that are not here."""

import dataclasses
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.compile.hlo import Program, parse
from lmjax.compile.kernels import attention_rounds
from lmjax.compile.topology import Topology
from lmjax.models.summary import ModelSummary
from lmjax.schedules.ramp import at_step
from lmjax.tokenizers.planned import planned_vocabulary
from lmjax.train.config import RunConfig
from lmjax.train.costs import summary_of
from lmjax.train.setup import build_learner, resolve
from lmjax.train.step import Learner
from lmjax.types import Rows

_INVOLUNTARY = re.compile(r"Involuntary full rematerialization.*?(?:for HLO operation|operation) (%\S+ = \S+).*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one chip.

    Attributes:
      arguments: parameters, optimizer state and the batch.
      temporaries: what lives during the step.
      other: results that take no argument's place, and the program itself.
    """

    arguments: int
    temporaries: int
    other: int

    @property
    def peak(self) -> int:
        """All of it."""
        return self.arguments + self.temporaries + self.other


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompiledStep:
    """A recipe's step and what the compiler said of it.

    Attributes:
      config: the recipe, resolved.
      topology: the chips.
      learner: what was compiled.
      summary: parameters and FLOPs.
      visible_share: of all pairs of query and key, those that the mask of an unbroken row shows.
      memory: of a chip; None where the step does not fit.
      program: None where it does not fit.
      refusal: the compiler's reason where it does not fit.
      involuntary: the operations whose arrays are gathered whole because their layouts do not go together.
    """

    config: RunConfig
    topology: Topology
    learner: Learner
    summary: ModelSummary
    visible_share: float
    memory: Memory | None
    program: Program | None
    refusal: str
    involuntary: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Of a step."""
        return tokens_of(self.config)


def compile_step(config: RunConfig, topology: Topology, *, log_folder: str | None = None) -> CompiledStep:
    """Compiles the training step of a recipe.

    Args:
      config: of the recipe.
      topology: the chips.
      log_folder: where libtpu writes its warnings.

    Raises:
      ValueError: objective, model, batch and mesh do not go together; the message names the field.
    """
    config, learner = resolved_learner(config, topology)
    share = visible_share(learner, config)
    known = _warnings(log_folder)
    lowered = lower(config, learner)
    memory, program, refusal = None, None, ""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        refusal = str(error)
    else:
        memory, program = _memory(compiled.memory_analysis()), parse(compiled.as_text() or "")
        program = dataclasses.replace(program, rounds=attention_rounds(program, share))
    state = learner.abstract_state
    return CompiledStep(
        config=config,
        topology=topology,
        learner=learner,
        summary=summary_of(
            config,
            learner.spec,
            sequence_length=config.train.sequence_length,
            held={"parameters": state.params, "optimizer": state.opt_state, "average": state.ema},
        ),
        visible_share=share,
        memory=memory,
        program=program,
        refusal=refusal,
        involuntary=tuple(line for line in _warnings(log_folder) if line not in known),
    )


def resolved_learner(config: RunConfig, topology: Topology) -> tuple[RunConfig, Learner]:
    """Returns the resolved recipe, and what would train it on these chips.

    Raises:
      ValueError: objective, model, batch and mesh do not go together; the message names the field.
    """
    vocabulary = planned_vocabulary(config.tokenizer)
    config = resolve(config, vocabulary)
    return config, build_learner(config, vocabulary, devices=topology.devices)


def lower(config: RunConfig, learner: Learner) -> jax.stages.Lowered:
    """Returns the training step before the compiler has optimised it."""
    # Before the mesh is set: with it, jax would try to make a key on chips that are not here.
    state, rows = learner.abstract_state, abstract_rows(config, learner)
    with jax.set_mesh(learner.mesh):
        return learner.train_step.lower(state, rows)


def tokens_of(config: RunConfig) -> int:
    """Returns the tokens of a step of the recipe, of all texts of its examples."""
    return config.train.batch_size * config.objective.traits.num_members * config.train.sequence_length


def abstract_rows(config: RunConfig, learner: Learner) -> Rows:
    """Returns the shapes of a batch of the recipe."""
    shape = (config.train.batch_size, learner.objective.row_length(config.train.sequence_length))
    ids: Any = jax.ShapeDtypeStruct(shape, np.int32)
    return Rows(tokens_BT=ids, segments_BT=None if config.data.packing in ("windows", "streams") else ids)


def visible_share(learner: Learner, config: RunConfig) -> float:
    """Returns the share of all pairs of query and key that the objective's mask shows, of a row of one document."""
    objective = at_step(learner.objective, 0)
    length = objective.row_length(config.train.sequence_length)
    tokens_BT = np.random.default_rng(0).integers(0, learner.vocabulary.size, (objective.traits.row_multiple, length))
    rows = Rows(tokens_BT=jnp.asarray(tokens_BT, jnp.int32), segments_BT=jnp.ones(tokens_BT.shape, jnp.int32))
    batch = objective.corrupt(jax.random.key(0), rows, learner.vocabulary)
    mask = batch.inputs.mask
    visible = np.clip(np.asarray(mask.end_BT) - np.asarray(mask.start_BT), 0, None)
    shown = float(visible.mean()) / visible.shape[-1]
    windows = config.model.windows
    return float(np.mean([min(shown, (window or length) / length) for window in windows]))


def _memory(analysis: Any) -> Memory:
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        other=analysis.output_size_in_bytes - analysis.alias_size_in_bytes + analysis.generated_code_size_in_bytes,
    )


def _warnings(folder: str | None) -> list[str]:
    """Returns the operations of libtpu's warnings that an array had to be gathered whole, from its log."""
    lines = []
    for path in sorted(pathlib.Path(folder).glob("*.WARNING.*")) if folder else ():
        lines += [found[1] for found in _INVOLUNTARY.finditer(path.read_text(errors="replace"))]
    return lines
