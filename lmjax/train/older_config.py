"""Converts the fields of a ``config.json`` that an earlier version of lmjax wrote to those of today."""

from typing import Any

from lmjax.models.config import ModelConfig
from lmjax.train.config import RunConfig
from lmjax.train.optimizers import Optimizer
from lmjax.train.trackers import Tracker

_OPTIMIZERS = {"adamw": "AdamW", "lion": "Lion", "adafactor": "Adafactor", "sgd": "SGD"}
"""The class that each former ``name`` of an optimizer stands for now; the module has the same name."""


def as_of_today(kind: type, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a configuration under the names and in the places that they have today.

    Args:
      kind: the class of the configuration, or the base class of its family.
      fields: JSON values by name; they are not changed.
    """
    if kind is ModelConfig:
        return _model(fields)
    if kind is Optimizer:
        return _optimizer(fields)
    if kind is RunConfig:
        return _run(fields)
    return fields


def _run(fields: dict[str, Any]) -> dict[str, Any]:
    """Makes a tracker of the former switch ``train.wandb``."""
    train = fields.get("train")
    if not isinstance(train, dict) or "wandb" not in train:
        return fields
    fields = fields | {"train": {name: value for name, value in train.items() if name != "wandb"}}
    return {"tracker": {"type": f"{Tracker.home}.wandb:WandB"}} | fields if train["wandb"] is True else fields


def _model(fields: dict[str, Any]) -> dict[str, Any]:
    """Moves the fields that say how a model is computed to ``execution``; they were fields of the model itself."""
    if "execution" in fields:
        return fields
    fields = dict(fields)
    moved: dict[str, Any] = {
        name: fields.pop(name) for name in ("dtype", "scan_layers", "remat", "attention") if name in fields
    }
    for mixer in ("mamba2", "rwkv6"):
        if isinstance(sizes := fields.get(mixer), dict) and "chunk" in sizes:
            moved[f"{mixer}_chunk"] = sizes["chunk"]
            fields[mixer] = {name: value for name, value in sizes.items() if name != "chunk"}
    return fields | {"execution": moved} if moved else fields


def _optimizer(fields: dict[str, Any]) -> dict[str, Any]:
    """Converts the options of the former optimizer class, which was one class for all optimizers.

    An option was null if it was unset or belonged to another optimizer.
    """
    name = fields.get("name")
    if "type" in fields or not isinstance(name, str) or name not in _OPTIMIZERS:
        return fields
    module = f"{Optimizer.home}.{name}:{_OPTIMIZERS[name]}"
    kept = {field: value for field, value in fields.items() if field == "clip_norm" or value is not None}
    return {"type": module} | {field: value for field, value in kept.items() if field != "name"}
