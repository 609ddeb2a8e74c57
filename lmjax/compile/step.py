"""The real training step of a recipe, or its evaluation step, compiled for chips that are not here."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.compile.compiled import Compiled, Work, compile_program
from lmjax.compile.topology import Topology
from lmjax.models.summary import ModelSummary
from lmjax.schedules.ramp import at_step
from lmjax.tokenizers.planned import planned_vocabulary
from lmjax.train.components import Component, components_of, turn_of
from lmjax.train.config import RunConfig
from lmjax.train.costs import summary_of
from lmjax.train.setup import build_learner, resolve
from lmjax.train.step import Learner
from lmjax.types import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompiledStep(Compiled):
    """A recipe's training or evaluation step and what the compiler said of it.

    Of a mixture whose objectives take turns, and of the evaluation of any mixture, it is the first objective's step.

    Attributes:
      config: the recipe, resolved.
      learner: what was compiled, of the objective whose step it is.
      summary: parameters, and the FLOPs of training.
    """

    config: RunConfig
    learner: Learner
    summary: ModelSummary


def compile_step(
    config: RunConfig, topology: Topology, *, evaluation: bool = False, log_folder: str | None = None
) -> CompiledStep:
    """Compiles the training step of a recipe, or its evaluation step, see :class:`CompiledStep`.

    Args:
      config: of the recipe.
      topology: the chips.
      evaluation: whether to compile the evaluation step. The rest of the training state stays on the chips meanwhile.
      log_folder: where libtpu writes its warnings.

    Raises:
      ValueError: objective, model, batch and mesh do not go together; the message names the field.
    """
    config, learner = resolved_learner(config, topology, evaluation=evaluation)
    summary, work = described(config, learner, evaluation=evaluation)
    lowered = lower_evaluation(config, learner) if evaluation else lower(config, learner)
    compiled, _ = compile_program(lowered, topology=topology, mesh=learner.mesh, work=work, log_folder=log_folder)
    return CompiledStep(**vars(compiled), config=config, learner=learner, summary=summary)


def described(config: RunConfig, learner: Learner, *, evaluation: bool) -> tuple[ModelSummary, Work]:
    """Returns the sizes of a resolved recipe's model, and what its training or evaluation step is there for."""
    state = learner.abstract_state
    summary = summary_of(
        config,
        learner.spec,
        sequence_length=config.train.sequence_length,
        held={"parameters": state.params, "optimizer": state.opt_state, "average": state.ema},
    )
    # A token of an evaluation has no backward pass, which takes two thirds of a training step's FLOPs.
    work = Work(
        tokens=tokens_of(config),
        flops_per_token=summary.flops_per_token / (3 if evaluation else 1),
        visible_share=visible_share(learner, config),
        held=sum(summary.held_bytes.values()) - summary.held_bytes["parameters"] if evaluation else 0,
    )
    return summary, work


def resolved_learner(config: RunConfig, topology: Topology, *, evaluation: bool = False) -> tuple[RunConfig, Learner]:
    """Returns the resolved recipe, and what would train or evaluate it on these chips, see :class:`CompiledStep`.

    Raises:
      ValueError: objective, model, batch and mesh do not go together; the message names the field.
    """
    vocabulary = planned_vocabulary(config.tokenizer)
    config = resolve(config, vocabulary)
    learner = build_learner(config, vocabulary, devices=topology.devices)
    return config, learner.of(one_component(config, evaluation=evaluation))


def one_component(config: RunConfig, *, evaluation: bool = False) -> Component:
    """Returns the objective whose step is compiled: the whole, or the first of those that have a step of their own."""
    trained = turn_of(config.objective, 0).component
    return components_of(config.objective)[0] if evaluation or trained.name is not None else trained


def lower(config: RunConfig, learner: Learner) -> jax.stages.Lowered:
    """Returns the training step before the compiler has optimised it."""
    # Before the mesh is set: with it, jax would try to make a key on chips that are not here.
    state, rows = learner.abstract_state, abstract_rows(config)
    with jax.set_mesh(learner.mesh):
        return learner.train_step.lower(state, rows)


def lower_evaluation(config: RunConfig, learner: Learner) -> jax.stages.Lowered:
    """Returns the evaluation step before the compiler has optimised it."""
    params, rows = learner.abstract_state.params, abstract_rows(config)
    key, carry = jax.eval_shape(lambda: jax.random.key(0)), jax.eval_shape(learner.new_carry)
    with jax.set_mesh(learner.mesh):
        return learner.eval_step.lower(params, rows, key, carry)


def tokens_of(config: RunConfig) -> int:
    """Returns the tokens of a step of the recipe, of all texts of its examples."""
    return config.train.batch_size * config.objective.traits.num_members * config.train.sequence_length


def abstract_rows(config: RunConfig) -> Rows:
    """Returns the shapes of a batch of the recipe."""
    # A part of a mixture takes what it needs of the mixture's rows.
    shape = (config.train.batch_size, config.objective.row_length(config.train.sequence_length))
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
