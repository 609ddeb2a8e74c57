"""SmolLM3 (Bakouch et al. 2025): Llama in which every fourth layer has no positions."""

from collections.abc import Collection
from typing import Any

from lmjax.interop.families import decoder
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.windows import FULL, SLIDING, from_layer_types, layer_types, one_window, shortest_pattern, unrolled
from lmjax.models.config import ModelConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    hf.ignore("max_window_layers", "pretraining_tp")
    bias = hf.get("mlp_bias")
    hf.require("attention_bias", bias)
    num_layers, interval = hf.get("num_hidden_layers"), hf.get("no_rope_layer_interval")
    turned = hf.get("no_rope_layers", None) or [(layer + 1) % interval != 0 for layer in range(num_layers)]
    if len(turned) < num_layers:
        raise hf.refusal("no_rope_layers", turned, f"there are {num_layers} layers")
    size = hf.get("sliding_window", None)
    window = size if hf.get("use_sliding_window") else None
    default = [FULL if window is None or turns else SLIDING for turns in turned[:num_layers]]
    return decoder.read_decoder(
        hf,
        bias=bias,
        rope_layers=shortest_pattern([bool(turns) for turns in turned[:num_layers]]),
        windows=from_layer_types(hf, window, default),
    )


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    window = one_window(config.windows)
    values = decoder.write_decoder(config)
    del values["head_dim"]
    return {
        **values,
        **decoder.write_head_width(config),
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
        "no_rope_layers": [int(turns) for turns in unrolled(config.rope_layers, config.num_layers)],
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "layer_types": layer_types(config.windows, config.num_layers),
    }


SMOLLM3 = Family(
    name="smollm3",
    model_type="smollm3",
    form="decoder",
    defaults={
        **decoder.DEFAULTS,
        "max_position_embeddings": 32768,
        "mlp_bias": False,
        "no_rope_layer_interval": 4,
        "num_key_value_heads": 4,
        "rope_theta": 2_000_000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
    },
    read=_read,
    write=_write,
    rules=decoder.pre_norm_rules,
    architecture=lambda config: "SmolLM3ForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)
