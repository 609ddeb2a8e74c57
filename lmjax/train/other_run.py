"""The model of another run. A recipe can take it over, and it is compared with a recipe's before its weights are used.

Two models whose parameters have the same shapes need not be the same: with another norm epsilon, rotary base, cap or
activation, the weights fit and compute something else. Such fields have to agree, or ``train.init_changes`` has to
name them.
"""

import dataclasses
import pathlib
from typing import Any

from lmjax.models.config import ModelConfig
from lmjax.models.recurrent import RECURRENT
from lmjax.train.config import RunConfig
from lmjax.train.config_file import flatten, from_json, to_json
from lmjax.train.run_folder import CONFIG
from lmjax.train.strict_json import read_json

FREE = (
    "execution", "dropout", "attention_dropout", "max_length", "rope_scaling", "vocab_size", "pad_vocab_to", "init_std",
    "embedding_init_std", "residual_init", "experts.balance_loss", "experts.router_z_loss",
)  # fmt: skip
"""Fields that may differ: they are changed on purpose from one run to the next, or change nothing once a model has its
weights."""


def model_of_run(folder: str | pathlib.Path) -> ModelConfig:
    """Returns the configuration of the model of a run, for a recipe that goes on with its weights.

    Args:
      folder: the folder of a run that was trained here, imported or extended; only the model is read of its
        ``config.json``.

    Raises:
      ValueError: the folder is no run folder, or its ``config.json`` is damaged.
    """
    path = pathlib.Path(folder) / CONFIG
    try:
        content = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} is not a run folder: it has no {CONFIG}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it") from None
    model = content.get("model") if isinstance(content, dict) else None
    return from_json(ModelConfig, model, where=f"{path}: model")


def check_same_model(there: RunConfig, here: RunConfig) -> list[str]:
    """Returns the differences between a run and the run that begins with its weights, one line for each.

    Args:
      there: the configuration of the run that has the weights.
      here: the configuration of the run that begins with them.

    Raises:
      ValueError: a field differs that changes what the weights compute, and
        ``train.init_changes`` does not name it; or a name in ``train.init_changes`` is not a field of the model.
    """
    changed, allowed = model_differences(there.model, here.model), here.train.init_changes
    fields = effective(here.model).keys() | {field.name for field in dataclasses.fields(ModelConfig)}
    for name in allowed:
        if name.removeprefix("model.") not in fields:
            raise ValueError(f"train.init_changes names {name!r}: the model has no such field")
    named = [*FREE, *(name.removeprefix("model.") for name in allowed)]
    free = {path for path in changed if any(path == name or path.startswith(f"{name}.") for name in named)}
    refused = [f"model.{path}: {old} there, {new} here" for path, (old, new) in changed.items() if path not in free]
    if refused:
        raise ValueError(
            f"train.init_from={here.train.init_from} has weights of these shapes and another model:\n  "
            + "\n  ".join(refused)
            + "\nTake the run's own model (lmjax.train.other_run.model_of_run in the recipe), set these fields as they "
            "are there, or name those to be changed: --train.init-changes "
            + " ".join(path for path in changed if path not in free)
        )
    lines = [f"model.{path}: {old} -> {new}" for path, (old, new) in changed.items()]
    if type(there.objective) is not type(here.objective):
        lines.append(f"objective: {type(there.objective).__name__} -> {type(here.objective).__name__}")
    return lines


def model_differences(there: ModelConfig, here: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """Returns the fields whose :func:`effective` values differ in two models, by dotted path, with both values.

    A field that has an effect in only one of the models is left out: the field that causes this differs, too, and is
    returned.
    """
    old, new = effective(there), effective(here)
    return {path: (old[path], new[path]) for path in old if path in new and old[path] != new[path]}


def effective(model: ModelConfig) -> dict[str, Any]:
    """Returns the fields of a model by dotted path, with the values that are in effect.

    An unset field has the value that it stands for; fields without effect are left out.
    """
    values: dict[str, Any] = to_json(model)
    values |= {
        "num_kv_heads": model.kv_heads,
        "head_width": model.key_width,
        "feedforward_width": model.hidden_width,
        "embedding_width": model.table_width,
        "norm_bias": model.bias if model.norm_bias is None else model.norm_bias,
        "qkv_bias": model.bias if model.qkv_bias is None else model.qkv_bias,
        "out_bias": model.bias if model.out_bias is None else model.out_bias,
        "attention_scale": model.key_width**-0.5 if model.attention_scale is None else model.attention_scale,
        "windows": _of_layers(model.windows, model.num_layers),
        "mixers": _of_layers(model.mixers, model.num_layers),
    }
    values |= {name: None for name in RECURRENT if name not in model.mixers}
    if model.experts.number == 0:
        values["experts"] = {"number": 0}
    if model.rope_scaling.kind == "none":
        values["rope_scaling"] = {"kind": "none"}
        if model.local_rope_theta is None:
            values["local_rope_theta"] = model.rope_theta
    if model.encoder_layers:
        encoder = model.encoder
        values["encoder_width"], values["encoder_heads"] = encoder.width, encoder.num_heads
        values["encoder_feedforward_width"] = encoder.hidden_width
    unused = {
        "rope": model.positions != "rope",
        "local_rope": model.positions != "rope" or set(model.windows) == {None},
        "relative": model.positions != "relative",
        "share_encoder": not model.encoder_layers,
    }
    prefixes = tuple(f"{prefix}_" for prefix, is_unused in unused.items() if is_unused)
    return {path: value for path, value in flatten(values).items() if not path.startswith(prefixes)}


def _of_layers(pattern: tuple, num_layers: int) -> list:
    return [pattern[layer % len(pattern)] for layer in range(num_layers)]
