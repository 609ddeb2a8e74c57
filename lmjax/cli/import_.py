"""`lmjax import DIR RUN`: a model of transformers as a run that can be trained on, evaluated and sampled."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import jax
import tyro

from lmjax.cli.arguments import parse_arguments
from lmjax.runs import Converted, import_hf


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """Read a folder of transformers (config.json, safetensors, tokenizer) and make a run of it, at step 0."""

    folder: tyro.conf.Positional[pathlib.Path]
    """The model's folder, as save_pretrained or a download leaves it."""
    run: tyro.conf.Positional[pathlib.Path]
    """The run folder to make."""
    tokenizer: pathlib.Path | None = None
    """Another tokenizer than that of the folder: a folder of ours, a .model, or a tokenizer.json."""
    ignore: tuple[str, ...] = ()
    """Keys of config.json to treat as if it did not have them; import.json of the run names them."""


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse_arguments(ImportArguments, arguments, command="import")
    converted = import_hf(options.folder, options.run, tokenizer=options.tokenizer, ignore=options.ignore)
    _tell(converted)
    count = sum(leaf.size for leaf in jax.tree.leaves(converted.params))
    tokens = converted.tokenizer.vocabulary.size
    print(f"{converted.model_type}, {count:,} parameters, {tokens} tokens: {options.run}")
    print(f"train on: lmjax train RECIPE --train.init-from {options.run}")


def _tell(converted: Converted) -> None:
    """Prints what of the folder was not taken over, or was added."""
    passed = converted.passed
    for what, keys in (
        ("ignored, as asked", passed.ignored),
        (f"never read by transformers for {converted.model_type}", passed.not_read),
        ("only for training, and not taken over", passed.training_only),
    ):
        if keys:
            print(f"{what}: {', '.join(f'{key}={json.dumps(value)}' for key, value in keys.items())}")
    if left_out := converted.tensors_left_out:
        parts = sorted({name.removeprefix("model.").split(".")[0] for name in left_out})
        print(f"left out, for only text is read: {len(left_out)} tensors of {', '.join(parts)}")
    if converted.new_parameters:
        print(f"new, for the folder does not hold them: {', '.join(converted.new_parameters)}")
    if surplus := converted.tokens_without_rows:
        print(f"left out of the tokenizer, for the model's table has no rows for them: {', '.join(surplus)}")
