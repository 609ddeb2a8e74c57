"""The size of a run's model, and what a token costs its objective."""

import dataclasses
from collections.abc import Mapping

from lmjax.models.config import ModelConfig
from lmjax.models.parameters import ModuleSpec
from lmjax.models.summary import ModelSummary, layer_attention_flops, summarize
from lmjax.objectives.parts.objective import Traits
from lmjax.train.components import decoder_length, leading
from lmjax.train.config import RunConfig
from lmjax.types import PyTree


def summary_of(
    config: RunConfig, spec: ModuleSpec, *, sequence_length: int, held: Mapping[str, PyTree] | None = None
) -> ModelSummary:
    """Returns sizes and costs of a run's model, FLOPs by what its objective does with a token.

    Args:
      config: of the run; the first objective of a mixture counts.
      spec: of the model.
      sequence_length: tokens of a row.
      held: parts of the training state, by name.
    """
    summary = summarize(
        spec,
        config.model,
        sequence_length=sequence_length,
        decoder_length=decoder_length(config.objective, sequence_length),
        held=held,
    )
    flops = flops_per_token(
        leading(config.objective).traits, summary.flops_per_token, model=config.model, sequence_length=sequence_length
    )
    return dataclasses.replace(summary, flops_per_token=flops)


def flops_per_token(traits: Traits, once: int, *, model: ModelConfig, sequence_length: int) -> int:
    """Returns the FLOPs of a token of a text, forward and backward.

    A text counts as often as it is read. Each token that a position predicts beyond the first costs the output layer
    and the attention of a layer once more; the parameters of these layers are in ``once``.

    Args:
      traits: of the objective.
      once: the FLOPs of a token that is read once and predicts one, see :func:`lmjax.models.summary.summarize`.
      model: the model.
      sequence_length: tokens of a row, or of each text of an example.
    """
    output_layer = 6 * model.vocab_size * model.table_width
    attention = layer_attention_flops(model, sequence_length, model.num_layers - 1)
    return traits.encodings * once + (traits.predictions - 1) * (output_layer + attention)
