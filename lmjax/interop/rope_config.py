"""Reads and writes the keys on rotary positions: ``rope_theta`` and ``rope_scaling``, or ``rope_parameters``."""

import dataclasses
import math
from typing import Any

from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.windows import FULL, SLIDING
from lmjax.models.config import ModelConfig
from lmjax.models.rope import RopeScaling

_OURS = {
    "factor": "factor",
    "original_max_position_embeddings": "original_length",
    "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
    "truncate": "truncate",
}
_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor", "truncate"),
}

TURN_PART = ("gpt_neox", "phi", "phi3")
"""The ``model_type`` of each family that may rotate only a part of a head's dimensions."""


def read_rope(
    hf: HuggingFaceConfig, *, max_length: int, theta: float = 10_000.0, fraction: float = 1.0
) -> dict[str, Any]:
    """Returns the fields of :class:`~lmjax.models.config.ModelConfig` on rotary positions.

    Args:
      hf: their configuration.
      max_length: its ``max_position_embeddings``.
      theta: base, used when the configuration does not say it.
      fraction: share of a head's dimensions that are rotated, used when the configuration does not say it.

    Raises:
      ValueError: a kind of scaling, or one of its keys, is not implemented.
    """
    theta = hf.get("rope_theta", theta)
    if turns_part(hf):
        fraction = hf.get("partial_rotary_factor", fraction)
    parameters = hf.get("rope_parameters", None)
    parameters = hf.get("rope_scaling", None) or parameters or {}
    return read_rope_parameters(hf, parameters, max_length=max_length, theta=theta, fraction=fraction)


def read_rope_parameters(
    hf: HuggingFaceConfig, parameters: dict[str, Any], *, max_length: int, theta: float, fraction: float
) -> dict[str, Any]:
    """Does what :func:`read_rope` does, from one dictionary of parameters."""
    values = {key: value for key, value in parameters.items() if value is not None}
    kind = values.pop("rope_type", values.pop("type", "default"))
    values.pop("type", None)
    theta = values.pop("rope_theta", theta)
    part = values.pop("partial_rotary_factor", None)
    if turns_part(hf):
        fraction = fraction if part is None else part
    elif kind != "default" and (part := part or hf.values.get("partial_rotary_factor")) not in (None, 1):
        # The code of transformers would compute fewer frequencies than it needs.
        raise hf.refusal("partial_rotary_factor", part, f"with scaled frequencies of kind {kind!r}")
    # This key is a note of those who trained the model.
    values.pop("finetuned", None)
    if kind not in _KEYS:
        raise hf.refusal("rope_scaling", parameters, f"of kind {kind!r}; known are {', '.join(_KEYS)}")
    if kind == "yarn":
        of_turned, of_all = values.pop("mscale", None), values.pop("mscale_all_dim", None)
        if of_turned and of_all and "attention_factor" not in values:
            factor = values.get("factor", 1.0)
            values["attention_factor"] = magnitude_of(factor, of_turned) / magnitude_of(factor, of_all)
    if kind in ("llama3", "yarn"):
        values.setdefault("original_max_position_embeddings", max_length)
    for key in values.keys() - set(_KEYS[kind]):
        raise hf.refusal("rope_scaling", parameters, f"its key {key!r} is not known for kind {kind!r}")
    scaling = RopeScaling(
        kind="none" if kind == "default" else kind, **{_OURS[key]: _number(value) for key, value in values.items()}
    )
    return {"rope_theta": float(theta), "rope_fraction": float(fraction), "rope_scaling": scaling}


def read_two_ropes(hf: HuggingFaceConfig, *, theta: float, local_theta: float) -> dict[str, Any]:
    """Returns the fields on rotary positions of a model whose layers with a window have a base of their own.

    Args:
      hf: their configuration; its ``rope_parameters`` has a dictionary for each kind of layer.
      theta: base of layers that see everything, used when the configuration does not say it.
      local_theta: base of layers with a window, used when the configuration does not say it.

    Raises:
      ValueError: layers with a window are scaled, or :func:`read_rope` would raise an error.
    """
    parameters = hf.get("rope_parameters", None) or {}
    whole = {**(parameters.get(FULL) or {}), **(hf.get("rope_scaling", None) or {})}
    local = parameters.get(SLIDING) or {}
    if local.get("rope_type", "default") != "default" or set(parameters) - {FULL, SLIDING}:
        raise hf.refusal("rope_parameters", parameters, "layers with a window are not scaled here")
    max_length = hf.get("max_position_embeddings")
    rope = read_rope_parameters(hf, whole, max_length=max_length, theta=theta, fraction=1.0)
    return {**rope, "local_rope_theta": float(local.get("rope_theta", local_theta))}


def turns_part(hf: HuggingFaceConfig) -> bool:
    """Returns whether this family uses ``partial_rotary_factor``; others rotate all of a head whatever it says."""
    return hf.values.get("model_type") in TURN_PART


def magnitude_of(factor: float, share: float) -> float:
    """Returns the factor on queries and keys in a context ``factor`` times as long.

    ``share`` is the ``mscale`` of their configuration, 1 in DeepSeek's.
    """
    return 1.0 if factor <= 1 else 0.1 * share * math.log(factor) + 1.0


def _number(value: Any) -> Any:
    return value if isinstance(value, int) else float(value)


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """Returns their keys, in the form that every version of transformers reads."""
    return {"rope_theta": config.rope_theta, "rope_scaling": write_scaling(config.rope_scaling)}


def write_scaling(scaling: RopeScaling) -> dict[str, Any] | None:
    """Returns their ``rope_scaling``, which is None where nothing is scaled."""
    if scaling.kind == "none":
        return None
    values = {key: getattr(scaling, _OURS[key]) for key in _KEYS[scaling.kind]}
    # Not every version knows `truncate`, and all behave as if it were True.
    unsaid = {key for key, value in values.items() if value is None or (key == "truncate" and value)}
    return {"rope_type": scaling.kind, **{key: value for key, value in values.items() if key not in unsaid}}


def without_ntk(config: ModelConfig) -> ModelConfig:
    """Returns the same model with NTK-aware scaling replaced by the larger base that it stands for.

    Transformers has no name for NTK-aware scaling by a fixed factor.
    """
    scaling = config.rope_scaling
    if config.positions != "rope" or scaling.kind != "ntk":
        return config
    rotated = config.rotated_width
    theta = config.rope_theta * scaling.factor ** (rotated / (rotated - 2))
    return dataclasses.replace(config, rope_theta=theta, rope_scaling=RopeScaling())
