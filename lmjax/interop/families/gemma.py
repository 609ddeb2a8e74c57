"""Gemma 1, 2 (Gemma Team 2024) and the text model of 3 (2025); the latter two have norms around each sublayer."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families import decoder
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.rope_config import read_rope, read_two_ropes, write_rope
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
    # Early files say "gelu" under the key "hidden_act", and mean the approximation.
    hf.ignore("hidden_act")
    return hf.choice("hidden_activation", decoder.GATED)


def _read_2(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    default = [FULL if layer % 2 else SLIDING for layer in range(hf.get("num_hidden_layers"))]
    return _read(hf, read_rope(hf, max_length=hf.get("max_position_embeddings")), default)


def _read_3(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    pattern = hf.get("sliding_window_pattern", hf.get("_sliding_window_pattern", 6))
    default = [SLIDING if (layer + 1) % pattern else FULL for layer in range(hf.get("num_hidden_layers"))]
    rope = read_two_ropes(hf, theta=hf.get("rope_theta"), local_theta=hf.get("rope_local_base_freq"))
    return _read(hf, rope, default, qk_norm="head")


def _read_1(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    hf.require("attention_bias", False)
    hf.require("use_bidirectional_attention", False, None)
    name = hf.get("hidden_activation", None) or hf.get("hidden_act")
    # The first files say "gelu" and mean the approximation; every version of transformers takes it so.
    activation: Activation = "geglu" if name == "gelu" else hf.choice("hidden_act", decoder.GATED)
    rope = read_rope(hf, max_length=hf.get("max_position_embeddings"))
    return ModelConfig(
        **decoder.read_sizes(hf), **rope, activation=activation, norm_scale_offset=True, scale_embeddings=True
    )


def _write_1(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return decoder.write_decoder(config)


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    scalar = config.key_width if config.attention_scale is None else config.attention_scale**-2
    types = layer_types(config.windows, config.num_layers)
    return {
        **decoder.write_sizes(config),
        **write_rope(config),
        "hidden_activation": decoder.their_gated(config.activation),
        # transformers declares this value as a whole number.
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

GEMMA = Family(
    name="gemma",
    model_type="gemma",
    form="decoder",
    defaults={
        **decoder.DEFAULTS,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "num_key_value_heads": 16,
        "tie_word_embeddings": True,
    },
    read=_read_1,
    write=_write_1,
    rules=decoder.pre_norm_rules,
    architecture=lambda config: "GemmaForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)

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
    heads_divide_width=True,
)

GEMMA3 = Family(
    name="gemma3_text",
    model_type="gemma3_text",
    form="decoder",
    defaults={
        **_DEFAULTS,
        # The config.json of a model with images leaves out the values that equal these defaults.
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "max_position_embeddings": 131072,
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "vocab_size": 262_208,
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
    heads_divide_width=True,
)
