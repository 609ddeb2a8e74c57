"""The size of a run's model, and what a token costs its objective."""

import dataclasses
from collections.abc import Mapping

from lmjax.models.parameters import ModuleSpec
from lmjax.models.summary import ModelSummary, summarize
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
    flops = leading(config.objective).flops_per_token(
        summary.flops_per_token, model=config.model, sequence_length=sequence_length
    )
    return dataclasses.replace(summary, flops_per_token=flops)
