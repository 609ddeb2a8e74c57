"""Makes the learner of a run from its configuration; a run that cannot work is refused here, before any compile."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import optax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from lmjax.kernels.low_precision import check_low_precision
from lmjax.models.parameters import ModuleSpec
from lmjax.models.with_extras import trained_spec
from lmjax.parallel.mesh import make_mesh, mesh_axes_of
from lmjax.schedules.learning_rate import Schedule, build_schedule
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.train.components import components_of
from lmjax.train.config import RunConfig
from lmjax.train.curriculum import Curriculum, curriculum
from lmjax.train.optimizers import AveragingOptimizer, average_of, build_optimizer
from lmjax.train.step import Learner


def resolve(config: RunConfig, vocabulary: Vocabulary) -> RunConfig:
    """Returns the configuration with the fields filled in that depend on the tokenizer."""
    return dataclasses.replace(config, model=config.model.with_vocabulary(vocabulary.size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """The facts about a run that are known before its data: the devices, and the rows of each step.

    Attributes:
      mesh: the mesh of the devices.
      curriculum: the phases of the run if its batch size does not change.
    """

    mesh: Mesh
    curriculum: Curriculum


def lay_out(config: RunConfig, *, devices: Sequence[jax.Device] | None = None) -> Layout:
    """Returns the layout of a run; its batch and heads must divide over the devices.

    Args:
      config: the configuration of the run; the size of the vocabulary may still be open.
      devices: the devices to use; if not given, all devices of all processes.

    Raises:
      ValueError: the mesh does not have as many devices as there are, the devices cannot compute products of 8 bits
        that the model asks for, or the configuration is refused by :func:`phases_on`.
    """
    mesh = make_mesh(config.mesh, devices)
    check_low_precision(config.model.execution.low_precision, mesh.devices.flat)
    return Layout(mesh=mesh, curriculum=phases_on(mesh, config))


def phases_on(mesh: Mesh | AbstractMesh, config: RunConfig) -> Curriculum:
    """Returns the phases of a run whose batch, rows and heads are split over a mesh.

    Args:
      mesh: the mesh; its devices need not be here.
      config: the configuration of the run; the size of the vocabulary may still be open.

    Raises:
      ValueError: batch, rows or heads do not divide over the mesh, the lengths of a sequence warm-up do not divide each
        other, or the data do not suit the objective.
    """
    config.objective.check_data(config.data)
    _check_batch(mesh, config)
    phases = curriculum(config.objective, config.train)
    if config.train.sequence_length % mesh.shape["context"]:
        raise ValueError(
            f"train.sequence_length={config.train.sequence_length} cannot be split over "
            f"mesh.context={mesh.shape['context']}: make it a multiple of that"
        )
    _check_ring(mesh, config, phases)
    for field, size in (("num_heads", config.model.num_heads), ("num_kv_heads", config.model.kv_heads)):
        if size % mesh.shape["tensor"]:
            raise ValueError(
                f"model.{field}={size} cannot be split over mesh.tensor={mesh.shape['tensor']}: "
                f"lower mesh.tensor, or change the number of heads"
            )
    return phases


def _check_ring(mesh: Mesh | AbstractMesh, config: RunConfig, phases: Curriculum) -> None:
    """Refuses rows that cannot pass their keys round: a mesh that does not split them, or rows of odd parts."""
    if config.model.execution.context != "ring":
        return
    ways = mesh.shape["context"]
    if ways == 1:
        raise ValueError(
            "model.execution.context='ring' with mesh.context=1: no row is split over devices: raise mesh.context, or "
            "set model.execution.context='gather'"
        )
    for phase in phases.phases:
        if phase.sequence_length % (2 * ways):
            is_last = phase.sequence_length == config.train.sequence_length
            field = "sequence_length" if is_last else "sequence_warmup"
            raise ValueError(
                f"train.{field}: rows of {phase.sequence_length} tokens cannot be divided evenly in zig-zag order over "
                f"mesh.context={ways}: make the length a multiple of {2 * ways}, or set "
                f"model.execution.context='gather'"
            )


def _check_batch(mesh: Mesh | AbstractMesh, config: RunConfig) -> None:
    train = config.train
    ways = math.prod(mesh.shape[axis] for axis in mesh_axes_of("batch"))
    if train.batch_size % (ways * train.microbatches):
        raise ValueError(
            f"train.batch_size={train.batch_size} cannot be split over {ways} devices "
            f"({' x '.join(f'mesh.{axis}' for axis in mesh_axes_of('batch'))}) in "
            f"train.microbatches={train.microbatches} parts: make it a multiple of {ways * train.microbatches}"
        )
    multiple = config.objective.traits.row_multiple
    if train.batch_size % (ways * train.microbatches * multiple):
        raise ValueError(
            f"train.batch_size={train.batch_size} leaves {train.batch_size // (ways * train.microbatches)} rows to a "
            f"microbatch on a device, and {type(config.objective).__name__} divides rows by the {multiple}: make it a "
            f"multiple of {ways * train.microbatches * multiple}, or choose weights in a simpler ratio"
        )


def check_average(config: RunConfig) -> None:
    """Refuses a configuration that does not fit an optimizer that averages the parameters itself.

    Raises:
      ValueError: the optimizer averages, but the run keeps another average or its learning rate decays.
    """
    if not isinstance(config.optimizer, AveragingOptimizer):
        return
    name = type(config.optimizer).__name__
    if config.train.ema_decay is not None:
        raise ValueError(f"train.ema_decay={config.train.ema_decay}: {name} averages the parameters: set it to None")
    if config.schedule.kind != "constant":
        raise ValueError(
            f"schedule.kind={config.schedule.kind!r}: {name} averages in place of a decaying learning rate: set it to "
            f"constant (schedule.warmup_steps may stay)"
        )


def build_learner(config: RunConfig, vocabulary: Vocabulary, *, devices: Sequence[jax.Device] | None = None) -> Learner:
    """Returns the learner of a resolved configuration, on the layout of this configuration (see :func:`learner_on`).

    Raises:
      ValueError: objective, model, batch and mesh do not go together; the message names the field.
    """
    return learner_on(lay_out(config, devices=devices), config, vocabulary)


def learner_on(layout: Layout, config: RunConfig, vocabulary: Vocabulary) -> Learner:
    """Returns the learner of a resolved configuration.

    Args:
      layout: the layout of this configuration, see :func:`lay_out`.
      config: the resolved configuration, see :func:`resolve`.
      vocabulary: the vocabulary of the tokenizer.

    Raises:
      ValueError: objective, model, batch and mesh do not go together; the message names the field.
    """
    spec = spec_of(config, layout.curriculum, vocabulary)
    schedule = build_schedule(config.schedule, total_steps=config.train.steps)
    return Learner(
        spec=spec,
        objective=config.objective,
        vocabulary=vocabulary,
        optimizer=optimizer_of(config, spec, schedule),
        learning_rate=lambda step: config.optimizer.learning_rate * schedule(step),
        mesh=layout.mesh,
        microbatches=config.train.microbatches,
        gradient_noise=config.train.gradient_noise,
        clip_norm=config.optimizer.clip_norm,
        ema_decay=config.train.ema_decay,
        average=average_of(config.optimizer, spec.kinds),
        new_carry=functools.partial(config.objective.initial_carry, config.model, config.train.batch_size),
        on_fault=config.on_fault,
    )


def spec_of(config: RunConfig, phases: Curriculum, vocabulary: Vocabulary) -> ModuleSpec:
    """Returns the module that a run trains.

    Args:
      config: the resolved configuration, see :func:`resolve`.
      phases: the phases of the run, see :func:`phases_on`.
      vocabulary: the vocabulary of the tokenizer.

    Raises:
      ValueError: objective, model and vocabulary do not go together, or the objective cannot be trained in
        microbatches; the message names the field.
    """
    objective, model, train = config.objective, config.model, config.train
    for phase in phases.phases:
        objective.check(model=model, vocabulary=vocabulary, sequence_length=phase.sequence_length)
    for component in components_of(objective):
        if component.objective.traits.couples_examples and train.microbatches > 1:
            raise ValueError(
                f"train.microbatches={train.microbatches}: {type(component.objective).__name__} compares the examples "
                f"of a batch with each other, which cannot be done in parts: set it to 1"
            )
    return trained_spec(lambda key: objective.build(model, rngs=nnx.Rngs(params=key)))


def optimizer_of(config: RunConfig, spec: ModuleSpec, schedule: Schedule) -> optax.GradientTransformation:
    """Returns the transformation from gradients to updates of a run.

    Args:
      config: the resolved configuration, see :func:`resolve`.
      spec: the module that the run trains.
      schedule: what multiplies the learning rate.

    Raises:
      ValueError: optimizer, schedule and model do not go together; the message names the field.
    """
    check_average(config)
    return build_optimizer(
        config.optimizer, schedule=schedule, kinds=spec.kinds, axes=spec.axes, width_ratio=config.model.width_ratio
    )
