"""Qwen 2 (Yang et al. 2024): Llama with biases on queries, keys and values. Qwen 3 (2025): norms on queries and keys
instead, and experts."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families import decoder
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.table import Rule
from lmjax.interop.windows import FULL, SLIDING, Windows, from_layer_types, layer_types, one_window, unrolled
from lmjax.models.config import ModelConfig
from lmjax.models.routing import ExpertsConfig


def read_windows(hf: HuggingFaceConfig) -> Windows:
    """Returns the pattern of windows: the upper layers have one, if it is switched on."""
    num_layers, first = hf.get("num_hidden_layers"), hf.get("max_window_layers")
    window = hf.get("sliding_window")
    if not hf.get("use_sliding_window"):
        window = None
    default = [FULL if window is None or layer < first else SLIDING for layer in range(num_layers)]
    return from_layer_types(hf, window, default)


def write_windows(config: ModelConfig) -> dict[str, Any]:
    """Returns their keys on windows; the inverse of :func:`read_windows`."""
    window = one_window(config.windows)
    per_layer = unrolled(config.windows, config.num_layers)
    first = next((layer for layer, size in enumerate(per_layer) if size is not None), config.num_layers)
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": first,
        "layer_types": layer_types(config.windows, config.num_layers),
    }


def _read_2(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    return decoder.read_decoder(hf, qkv_bias=True, windows=read_windows(hf))


def _read_3(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    hf.require("attention_bias", False)
    return decoder.read_decoder(hf, qk_norm="head", windows=read_windows(hf))


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return {**decoder.write_decoder(config), **write_windows(config)}


WINDOW_DEFAULTS = {"max_window_layers": 28, "sliding_window": 4096, "use_sliding_window": False}

QWEN2 = Family(
    name="qwen2",
    model_type="qwen2",
    form="decoder",
    defaults={**decoder.DEFAULTS, **WINDOW_DEFAULTS, "max_position_embeddings": 32768},
    read=_read_2,
    write=_write,
    rules=decoder.pre_norm_rules,
    architecture=lambda config: "Qwen2ForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)

QWEN3 = Family(
    name="qwen3",
    model_type="qwen3",
    form="decoder",
    defaults={**decoder.DEFAULTS, **WINDOW_DEFAULTS, "max_position_embeddings": 32768, "head_dim": 128},
    read=_read_3,
    write=_write,
    rules=decoder.pre_norm_rules,
    architecture=lambda config: "Qwen3ForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)


def _read_moe(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    hf.require("attention_bias", False)
    number = hf.get("num_experts")
    every, dense = hf.get("decoder_sparse_step"), hf.get("mlp_only_layers", None) or []
    if dense != [*range(len(dense))]:
        raise hf.refusal("mlp_only_layers", dense, "only the first layers can be without experts")
    if number == 0 or len(dense) >= hf.get("num_hidden_layers"):
        raise hf.refusal("num_experts", number, "a model without experts has model_type qwen3")
    experts = ExpertsConfig(
        number=number,
        per_token=hf.get("num_experts_per_tok"),
        width=hf.get("moe_intermediate_size"),
        every=every,
        first_dense=len(dense),
        normalize_gates=hf.get("norm_topk_prob"),
        balance_loss=hf.get("router_aux_loss_coef"),
    )
    window = hf.get("sliding_window") if hf.get("use_sliding_window") else None
    hf.ignore("sliding_window")
    return decoder.read_decoder(hf, qk_norm="head", windows=(window,), experts=experts)


def _write_moe(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    experts = config.experts
    return {
        **decoder.write_decoder(config),
        "use_sliding_window": config.windows[0] is not None,
        "sliding_window": config.windows[0],
        "num_experts": experts.number,
        "num_experts_per_tok": experts.per_token,
        "moe_intermediate_size": config.hidden_width if experts.width is None else experts.width,
        "decoder_sparse_step": experts.every,
        "mlp_only_layers": [*range(experts.first_dense)],
        "norm_topk_prob": experts.normalize_gates,
        "router_aux_loss_coef": experts.balance_loss,
    }


def _moe_rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    experts = decoder.expert_rules("mlp", gate="gate_proj", up="up_proj", down="down_proj")
    return decoder.decoder_rules(decoder.PRE_NORMS, experts=experts)


QWEN3_MOE = Family(
    name="qwen3_moe",
    model_type="qwen3_moe",
    form="decoder",
    defaults={
        **decoder.DEFAULTS,
        "decoder_sparse_step": 1,
        "max_position_embeddings": 32768,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_key_value_heads": 4,
        "router_aux_loss_coef": 0.001,
        "sliding_window": 4096,
        "use_sliding_window": False,
    },
    read=_read_moe,
    write=_write_moe,
    rules=_moe_rules,
    architecture=lambda config: "Qwen3MoeForCausalLM",
    prefix="model.",
    synonyms={"num_local_experts": "num_experts"},
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)
