"""Compares two configurations: an export checks here that both describe the same model before it writes anything."""

import dataclasses
import math
from typing import Any

from lmjax.interop.rope_config import without_ntk
from lmjax.interop.windows import shortest_pattern, unrolled
from lmjax.models.config import ModelConfig
from lmjax.models.latent import LatentConfig
from lmjax.models.rope import RopeScaling
from lmjax.models.routing import ExpertsConfig

# These fields say how the model is trained, run or initialised. They do not change the function it computes.
_INDIFFERENT = (
    "execution", "pad_vocab_to", "dropout", "attention_dropout", "init_std", "embedding_init_std", "residual_init",
)  # fmt: skip
_OF_ROPE = ("rope_theta", "rope_fraction", "rope_scaling", "rope_layers", "local_rope_theta")
_OF_ATTENTION = (
    "num_heads", "num_kv_heads", "head_width", "qkv_bias", "out_bias", "qk_norm", "qkv_clip", "attention_scale",
    "attention_sinks", "attention_softcap", "latent", "windows",
)  # fmt: skip
_OF_RELATIVE = ("relative_per_layer", "relative_buckets", "relative_max_distance", "relative_past_only")


def structural_differences(wanted: ModelConfig, found: ModelConfig) -> list[str]:
    """Returns the names of the fields in which two configurations describe different functions."""
    left, right = _structure(wanted), _structure(found)
    # A field may matter to only one of the two. Then some other field differs as well, so it need not be compared.
    return [name for name in left if name in right and not _equal(left[name], right[name])]


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-9)
    return left == right


def _structure(config: ModelConfig) -> dict[str, Any]:
    """Returns the fields by name: unset ones have their effective value, and ones without effect are left out."""
    config = without_ntk(config)
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    bias = config.bias
    fields |= {
        "num_kv_heads": config.kv_heads,
        "head_width": config.key_width,
        "feedforward_width": config.hidden_width,
        "qkv_bias": bias if config.qkv_bias is None else config.qkv_bias,
        "out_bias": bias if config.out_bias is None else config.out_bias,
        "norm_bias": config.norm == "layernorm" and (bias if config.norm_bias is None else config.norm_bias),
        "latent": dataclasses.replace(config.latent, value_width=config.value_width)
        if config.latent.rank
        else LatentConfig(),
        "attention_scale": config.attention_scale or config.attention_width**-0.5,
        "windows": shortest_pattern(unrolled(config.windows, config.num_layers)),
        "logit_scale": float(config.logit_scale),
        "width_base": None if config.width_ratio == 1 else config.width_base,
        "experts": _experts(config),
    }
    without = set(_INDIFFERENT)
    if config.positions != "learned":
        without.add("max_length")
    if "attention" not in config.mixers:
        without |= {*_OF_ATTENTION}
        fields["positions"] = "none" if config.positions in ("rope", "alibi") else config.positions
    if fields["positions"] != "rope":
        without |= {*_OF_ROPE}
    else:
        fields["rope_fraction"] = config.rotated_width
        fields["rope_scaling"] = _filled(config.rope_scaling)
        fields["rope_layers"] = shortest_pattern(unrolled(config.rope_layers, config.num_layers))
        windowed = any(window is not None for window in config.windows)
        same_rope = config.local_rope_theta == config.rope_theta and config.rope_scaling.kind == "none"
        if not windowed or same_rope:
            fields["local_rope_theta"] = None
    without |= {"mamba2", "rwkv6"} - {*config.recurrent}
    fields["mixers"] = shortest_pattern(unrolled(config.mixers, config.num_layers))
    if config.positions != "relative":
        without |= {*_OF_RELATIVE}
    fields |= _encoder_fields(config)
    return {name: value for name, value in fields.items() if name not in without}


def _filled(scaling: RopeScaling) -> RopeScaling:
    return RopeScaling() if scaling.kind == "none" else dataclasses.replace(scaling, attention_factor=scaling.magnitude)


def _experts(config: ModelConfig) -> ExpertsConfig:
    """Returns the expert settings without those only training uses: its losses, and the capacity of an expert."""
    experts = config.experts
    if not experts.number:
        return ExpertsConfig()
    width = config.hidden_width if experts.width is None else experts.width
    return dataclasses.replace(experts, width=width, balance_loss=0.0, router_z_loss=0.0, capacity_factor=None)


def _encoder_fields(config: ModelConfig) -> dict[str, Any]:
    if not config.encoder_layers:
        return {"share_encoder_embedding": True}
    encoder = config.encoder
    return {
        "encoder_width": encoder.width,
        "encoder_heads": encoder.num_heads,
        "encoder_feedforward_width": encoder.hidden_width,
    }
