"""Gemma 2 (Gemma Team 2024) and the text model of Gemma 3 (2025): norms before and after each sublayer."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families import decoder
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.rope_config import read_rope, read_rope_parameters, write_rope
from lmjax.interop.table import Rule
from lmjax.interop.windows import FULL, SLIDING, from_layer_types, layer_types, one_window
from lmjax.models.config import Activation, ModelConfig


def _read(hf: HuggingFaceConfig, rope: dict[str, Any], default_types: list[str], **fields: Any) -> ModelConfig:
    hf.require("attention_bias", False)
    hf.require("use_bidirectional_attention", False, None)
    sizes = decoder.read_sizes(hf)
    scalar = hf.get("query_pre_attn_scalar")
    key_width = sizes["head_width"] or sizes["width"] // sizes["num_heads"]
    return ModelConfig(
        **sizes,
        **rope,
        residual="sandwich",
        norm_scale_offset=True,
        activation=_activation(hf),
        scale_embeddings=True,
        attention_scale=None if scalar == key_width else scalar**-0.5,
        attention_softcap=hf.get("attn_logit_softcapping"),
        logit_softcap=hf.get("final_logit_softcapping"),
        windows=from_layer_types(hf, hf.get("sliding_window"), default_types),
        **fields,
    )


def _activation(hf: HuggingFaceConfig) -> Activation:
    # Early files say "gelu" under the other key, and mean the approximation.
    hf.ignore("hidden_act")
    return hf.choice("hidden_activation", decoder.GATED)


def _read_2(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    default = [FULL if layer % 2 else SLIDING for layer in range(hf.get("num_hidden_layers"))]
    return _read(hf, read_rope(hf, max_length=hf.get("max_position_embeddings")), default)


def _read_3(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    pattern = hf.get("sliding_window_pattern", hf.get("_sliding_window_pattern", 6))
    default = [SLIDING if (layer + 1) % pattern else FULL for layer in range(hf.get("num_hidden_layers"))]
    return _read(hf, _read_two_ropes(hf), default, qk_norm="head")


def _read_two_ropes(hf: HuggingFaceConfig) -> dict[str, Any]:
    """The base and scaling of layers that see everything, and the base of those with a window."""
    parameters = hf.get("rope_parameters", None) or {}
    theta, local_theta = hf.get("rope_theta"), hf.get("rope_local_base_freq")
    whole = {**(parameters.get(FULL) or {}), **(hf.get("rope_scaling", None) or {})}
    local = parameters.get(SLIDING) or {}
    if local.get("rope_type", "default") != "default" or set(parameters) - {FULL, SLIDING}:
        raise hf.refusal("rope_parameters", parameters, "layers with a window are not scaled here")
    max_length = hf.get("max_position_embeddings")
    rope = read_rope_parameters(hf, whole, max_length=max_length, theta=theta, fraction=1.0)
    return {**rope, "local_rope_theta": float(local.get("rope_theta", local_theta))}


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    scalar = config.key_width if config.attention_scale is None else config.attention_scale**-2
    types = layer_types(config.windows, config.num_layers)
    return {
        **decoder.write_sizes(config),
        **write_rope(config),
        "hidden_activation": decoder.their_gated(config.activation),
        # They declare a whole number.
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 * scalar else scalar,
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "sliding_window": one_window(config.windows) or 4096,
        "layer_types": types,
    }


def _write_3(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    local_theta = config.rope_theta if config.local_rope_theta is None else config.local_rope_theta
    return {**_write(config, ids), "rope_local_base_freq": local_theta}


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    return decoder.decoder_rules(
        {
            "input_layernorm": "attention_norm",
            "post_attention_layernorm": "attention_output_norm",
            "pre_feedforward_layernorm": "feedforward_norm",
            "post_feedforward_layernorm": "feedforward_output_norm",
        }
    )


_DEFAULTS = {
    **{name: value for name, value in decoder.DEFAULTS.items() if name != "hidden_act"},
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}

GEMMA2 = Family(
    name="gemma2",
    model_type="gemma2",
    form="decoder",
    defaults={
        **_DEFAULTS,
        "max_position_embeddings": 8192,
    },
    read=_read_2,
    write=_write,
    rules=_rules,
    architecture=lambda config: "Gemma2ForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)

GEMMA3 = Family(
    name="gemma3_text",
    model_type="gemma3_text",
    form="decoder",
    defaults={
        **_DEFAULTS,
        "max_position_embeddings": 131072,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
    },
    read=_read_3,
    write=_write_3,
    rules=_rules,
    architecture=lambda config: "Gemma3ForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)
