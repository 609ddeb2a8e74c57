"""Makes the learner of a run from its configuration; a run that cannot work is refused here, before any compile."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
from flax import nnx
from jax.sharding import Mesh

from lmjax.kernels.low_precision import check_low_precision
from lmjax.models.with_extras import trained_spec
from lmjax.parallel.mesh import make_mesh, mesh_axes_of
from lmjax.schedules.learning_rate import build_schedule
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.train.components import components_of
from lmjax.train.config import RunConfig
from lmjax.train.curriculum import Curriculum, curriculum
from lmjax.train.optimizers import average_of, build_optimizer
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
      ValueError: they do not divide, the mesh does not have as many devices as there are, the devices cannot compute
        products of 8 bits that the model asks for, the lengths of a sequence warm-up do not divide each other, or the
        data do not suit the objective.
    """
    config.objective.check_data(config.data)
    model, train = config.model, config.train
    mesh = make_mesh(config.mesh, devices)
    check_low_precision(model.execution.low_precision, mesh.devices.flat)
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
    phases = curriculum(config.objective, train)
    if train.sequence_length % mesh.shape["context"]:
        raise ValueError(
            f"train.sequence_length={train.sequence_length} cannot be split over mesh.context={mesh.shape['context']}: "
            f"make it a multiple of that"
        )
    for field, size in (("num_heads", model.num_heads), ("num_kv_heads", model.kv_heads)):
        if size % mesh.shape["tensor"]:
            raise ValueError(
                f"model.{field}={size} cannot be split over mesh.tensor={mesh.shape['tensor']}: "
                f"lower mesh.tensor, or change the number of heads"
            )
    return Layout(mesh=mesh, curriculum=phases)


def check_average(config: RunConfig) -> None:
    """Refuses a configuration that does not fit an optimizer that averages the parameters itself.

    Raises:
      ValueError: the optimizer averages, but the run keeps another average or its learning rate decays.
    """
    if not config.optimizer.keeps_average:
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
    check_average(config)
    objective, model, train = config.objective, config.model, config.train
    for phase in layout.curriculum.phases:
        objective.check(model=model, vocabulary=vocabulary, sequence_length=phase.sequence_length)
    for component in components_of(objective):
        if component.objective.traits.couples_examples and train.microbatches > 1:
            raise ValueError(
                f"train.microbatches={train.microbatches}: {type(component.objective).__name__} compares the examples "
                f"of a batch with each other, which cannot be done in parts: set it to 1"
            )
    spec = trained_spec(lambda key: objective.build(model, rngs=nnx.Rngs(params=key)))
    schedule = build_schedule(config.schedule, total_steps=train.steps)
    return Learner(
        spec=spec,
        objective=objective,
        vocabulary=vocabulary,
        optimizer=build_optimizer(
            config.optimizer, schedule=schedule, kinds=spec.kinds, axes=spec.axes, width_ratio=model.width_ratio
        ),
        learning_rate=lambda step: config.optimizer.learning_rate * schedule(step),
        mesh=layout.mesh,
        microbatches=train.microbatches,
        gradient_noise=train.gradient_noise,
        clip_norm=config.optimizer.clip_norm,
        ema_decay=train.ema_decay,
        average=average_of(config.optimizer, spec.kinds),
        new_carry=functools.partial(objective.initial_carry, model, train.batch_size),
        on_fault=config.on_fault,
    )
