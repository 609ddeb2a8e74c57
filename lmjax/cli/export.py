"""`lmjax export RUN DIR`: a run's model as a folder that transformers loads."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Literal

import tyro

from lmjax.cli.arguments import parse_arguments
from lmjax.interop import save_pretrained
from lmjax.interop.tokenizer_files import ROLES, save_tokenizer_files
from lmjax.parallel.folder_lock import fresh_folder
from lmjax.parallel.signals import kept
from lmjax.train.run_folder import BestOrStep, naming, open_run


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
    options = parse_arguments(ExportArguments, arguments, command="export")
    with fresh_folder(options.folder, "is being exported to"):
        _export(options)


def _export(options: ExportArguments) -> None:
    opened = open_run(options.run, step=options.step)
    objective, config = opened.config.objective, opened.config.model
    if config.positions != "learned":
        # Only a note there, of how far the model has read.
        config = dataclasses.replace(config, max_length=max(config.max_length, opened.config.train.sequence_length))
    vocabulary = opened.tokenizer.vocabulary
    # What an objective adds for training only, and ELECTRA's generator, stay behind.
    added = {*objective.additions, "generator"}
    params = {name: part for name, part in opened.params.items() if name not in added}
    ids = {role: getattr(vocabulary, f"{role}_id") for role in ROLES}
    unfinished = kept(f"{options.folder} is not finished: delete it, and run the command again")
    with naming(options.folder), unfinished:
        family = save_pretrained(
            options.folder,
            config,
            params,
            family_name=options.family,
            reads="both_ways" if objective.attention == "bidirectional" else "forwards",
            ids=ids,
            dtype=options.dtype,
        )
        problem = save_tokenizer_files(options.folder, opened.tokenizer, max_length=config.max_length)
    if problem is not None:
        print(f"tokenizer: {problem}")
    print(f"step {opened.step} as {family.architecture(config)}: {options.folder}")
