"""Fields of ``config.json`` that earlier versions of lmjax wrote, as today's."""

from typing import Any

from lmjax.models.config import ModelConfig
from lmjax.train.optimizers import Optimizer

_OPTIMIZERS = {"adamw": "AdamW", "lion": "Lion", "adafactor": "Adafactor", "sgd": "SGD"}
"""The class that an optimizer of this ``name`` is now, in the module of that name."""


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
    return fields


def _model(fields: dict[str, Any]) -> dict[str, Any]:
    """How a model is computed was written among what it is; ``execution`` holds it now."""
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
    """One class had the options of all optimizers, null where they were unset or belonged to another one."""
    name = fields.get("name")
    if "type" in fields or not isinstance(name, str) or name not in _OPTIMIZERS:
        return fields
    module = f"{Optimizer.home}.{name}:{_OPTIMIZERS[name]}"
    kept = {field: value for field, value in fields.items() if field == "clip_norm" or value is not None}
    return {"type": module} | {field: value for field, value in kept.items() if field != "name"}
