"""`lmjax export RUN DIR`: a run's model as a folder that transformers loads."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Literal

import tyro

from lmjax import runs
from lmjax.cli.arguments import parse_arguments
from lmjax.train.run_folder import BestOrStep


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write a run's model (config.json, safetensors, tokenizer) so that AutoModel of transformers loads it."""

    run: tyro.conf.Positional[pathlib.Path]
    """The run folder."""
    folder: tyro.conf.Positional[pathlib.Path]
    """The folder to make."""
    family: str | None = None
    """The family to write it as (a model_type); when unset the first that can express it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the weights are stored as; float32 loses nothing."""
    step: BestOrStep = None
    """The checkpoint to use, a step or `best` (checkpoint.keep_best); the newest when unset."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(ExportArguments, arguments, command="export", runs=("run",))
    opened = runs.open(options.run, step=options.step)
    exported = runs.export_hf(opened, options.folder, family=options.family, dtype=options.dtype)
    if exported.tokenizer_problem is not None:
        print(f"tokenizer: {exported.tokenizer_problem}")
    if exported.families_refused:
        model = opened.config.model
        print(
            f"not as {', '.join(exported.families_refused)}: transformers loads these only where the number of heads "
            f"({model.num_heads}) divides the width ({model.width})"
        )
    print(f"step {exported.step} as {exported.architecture}: {options.folder}")
