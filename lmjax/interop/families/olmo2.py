"""OLMo 2 and 3 (OLMo Team 2024, 2025): norms on the outputs of sublayers, and on whole queries and keys (all heads)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families import decoder
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.rope_config import read_two_ropes, write_scaling
from lmjax.interop.table import Rule
from lmjax.interop.windows import FULL, SLIDING, from_layer_types, layer_types, one_window
from lmjax.models.config import ModelConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    hf.require("attention_bias", False)
    return decoder.read_decoder(hf, residual="output", qk_norm="projection")


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    values = decoder.write_decoder(config)
    del values["head_dim"]
    return {**values, **decoder.write_head_width(config)}


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    return decoder.decoder_rules(
        {"post_attention_layernorm": "attention_norm", "post_feedforward_layernorm": "feedforward_norm"}
    )


OLMO2 = Family(
    name="olmo2",
    model_type="olmo2",
    form="decoder",
    defaults={**decoder.DEFAULTS, "rms_norm_eps": 1e-5},
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "Olmo2ForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)


def _read_3(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    hf.require("attention_bias", False)
    default = [SLIDING if (layer + 1) % 4 else FULL for layer in range(hf.get("num_hidden_layers"))]
    theta = hf.get("rope_theta")
    return ModelConfig(
        **decoder.read_sizes(hf),
        **read_two_ropes(hf, theta=theta, local_theta=theta),
        activation=hf.choice("hidden_act", decoder.GATED),
        residual="output",
        qk_norm="projection",
        windows=from_layer_types(hf, hf.get("sliding_window"), default),
    )


def _write_3(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    values = {name: value for name, value in _write(config, ids).items() if not name.startswith("rope_")}
    local_theta = config.rope_theta if config.local_rope_theta is None else config.local_rope_theta
    scaling = write_scaling(config.rope_scaling) or {"rope_type": "default"}
    return {
        **values,
        "sliding_window": one_window(config.windows) or 4096,
        "layer_types": layer_types(config.windows, config.num_layers),
        "rope_parameters": {
            FULL: {**scaling, "rope_theta": config.rope_theta},
            SLIDING: {"rope_type": "default", "rope_theta": local_theta},
        },
    }


OLMO3 = Family(
    name="olmo3",
    model_type="olmo3",
    form="decoder",
    defaults={**decoder.DEFAULTS, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "sliding_window": 4096},
    read=_read_3,
    write=_write_3,
    rules=_rules,
    architecture=lambda config: "Olmo3ForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)
