"""DeepSeek-V3 (DeepSeek-AI 2024): latent attention, and experts chosen by groups, with a bias that balances them."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families import decoder
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import Flat, SideBySide
from lmjax.interop.rope_config import magnitude_of, read_rope, write_rope
from lmjax.interop.table import Rule, linear, norm
from lmjax.models.config import ModelConfig
from lmjax.models.latent import LatentConfig
from lmjax.models.routing import ExpertsConfig

_QUERY_RANK = 1536
"""The value that transformers uses when config.json lacks the key; null has another meaning."""


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    # These keys follow from others; or are about training on several devices; or about heads for further tokens, which
    # the logits do not need; or give the order of rows, which the table of tensors reads itself.
    hf.ignore(
        "head_dim", "qk_head_dim", "pretraining_tp", "ep_size", "seq_aux", "output_router_logits",
        "num_nextn_predict_layers", "num_mtp_layers", "rope_interleave",
    )  # fmt: skip
    num_heads = hf.get("num_attention_heads")
    hf.require("num_key_value_heads", num_heads, None)
    hf.require("attention_bias", False)
    # Where the context is stretched, the logits are multiplied by the square of this magnitude.
    scaling = hf.get("rope_scaling", None) or hf.get("rope_parameters", None) or {}
    stretched = magnitude_of(scaling.get("factor", 1.0), scaling.get("mscale_all_dim") or 0.0)
    content_width, rope_width = hf.get("qk_nope_head_dim"), hf.get("qk_rope_head_dim")
    return ModelConfig(
        vocab_size=hf.get("vocab_size"),
        width=hf.get("hidden_size"),
        num_layers=hf.get("num_hidden_layers"),
        num_heads=num_heads,
        head_width=content_width,
        latent=LatentConfig(
            rank=hf.get("kv_lora_rank"),
            query_rank=hf.get("q_lora_rank", _QUERY_RANK),
            rope_width=rope_width,
            value_width=hf.get("v_head_dim"),
        ),
        attention_scale=None if stretched == 1 else (content_width + rope_width) ** -0.5 * stretched * stretched,
        feedforward_width=hf.get("intermediate_size"),
        experts=_read_experts(hf),
        activation=hf.choice("hidden_act", decoder.GATED),
        max_length=hf.get("max_position_embeddings"),
        **read_rope(hf, max_length=hf.get("max_position_embeddings")),
        norm_epsilon=hf.get("rms_norm_eps"),
        tie_embeddings=hf.get("tie_word_embeddings"),
        attention_dropout=hf.get("attention_dropout"),
        init_std=hf.get("initializer_range"),
        residual_init="plain",
    )


def _read_experts(hf: HuggingFaceConfig) -> ExpertsConfig:
    # Only the form of DeepSeek-V3 is supported: a bias, sigmoid scores, and experts in all layers but the first ones.
    hf.require("topk_method", "noaux_tc")
    hf.require("scoring_func", "sigmoid")
    hf.require("moe_layer_freq", 1)
    shared, first_dense = hf.get("n_shared_experts"), hf.get("first_k_dense_replace")
    if shared < 1:
        raise hf.refusal("n_shared_experts", shared, "at least 1 is")
    experts = ExpertsConfig(
        number=hf.get("n_routed_experts"),
        per_token=hf.get("num_experts_per_tok"),
        width=hf.get("moe_intermediate_size"),
        shared=shared,
        first_dense=first_dense,
        scores="sigmoid",
        groups=hf.get("n_group"),
        groups_per_token=hf.get("topk_group"),
        normalize_gates=hf.get("norm_topk_prob"),
        gate_scale=hf.get("routed_scaling_factor"),
        balance_bias=True,
        balance_loss=hf.get("aux_loss_alpha"),
    )
    return ExpertsConfig() if first_dense >= hf.get("num_hidden_layers") else experts


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    latent = config.latent
    rope = write_rope(config)
    if config.rope_scaling.kind == "yarn" and config.attention_scale is not None:
        stretched = math.sqrt(config.attention_scale * config.attention_width**0.5)
        all_dimensions = (stretched - 1) / (0.1 * math.log(config.rope_scaling.factor))
        # Rounding the number here removes the error of converting it back and forth.
        rope["rope_scaling"]["mscale_all_dim"] = float(f"{all_dimensions:.12g}")
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "qk_nope_head_dim": config.key_width,
        "qk_rope_head_dim": latent.rope_width,
        "v_head_dim": config.value_width,
        "kv_lora_rank": latent.rank,
        "q_lora_rank": latent.query_rank,
        "num_nextn_predict_layers": 0,
        **rope,
        "rope_interleave": True,
        "hidden_act": decoder.their_gated(config.activation),
        "intermediate_size": config.hidden_width,
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_epsilon,
        "attention_dropout": config.attention_dropout,
        "initializer_range": 0.02 if config.init_std is None else config.init_std,
        **_write_experts(config),
    }


def _write_experts(config: ModelConfig) -> dict[str, Any]:
    experts = config.experts
    if not experts.number:
        return {"first_k_dense_replace": config.num_layers}
    return {
        "n_routed_experts": experts.number,
        "num_experts_per_tok": experts.per_token,
        "moe_intermediate_size": config.hidden_width if experts.width is None else experts.width,
        "n_shared_experts": experts.shared,
        "first_k_dense_replace": experts.first_dense,
        "n_group": experts.groups,
        "topk_group": experts.groups_per_token,
        "norm_topk_prob": experts.normalize_gates,
        "routed_scaling_factor": experts.gate_scale,
        "aux_loss_alpha": experts.balance_loss,
    }


def _rules(values: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "model.layers.{}.self_attn", "layers.{}.attention"
    # In the order of the release, the two dimensions that are rotated together are neighbours.
    pairs = values["rope_interleave"]
    query = "q_proj" if values.get("q_lora_rank", _QUERY_RANK) is None else "q_b_proj"

    def joined(name: str, parts: tuple[str, str], *, pairs: bool = False) -> Rule:
        names = tuple(f"layers.{{}}.attention.{part}.weight" for part in parts)
        return Rule(f"{theirs}.{name}.weight", names, SideBySide(pairs))

    attention = (
        *linear(f"{theirs}.q_a_proj", f"{ours}.query_down"),
        *norm(f"{theirs}.q_a_layernorm", f"{ours}.query_norm"),
        joined(query, ("query_content", "query_position"), pairs=pairs),
        joined("kv_a_proj_with_mqa", ("latent", "key_position"), pairs=pairs),
        *norm(f"{theirs}.kv_a_layernorm", f"{ours}.latent_norm"),
        joined("kv_b_proj", ("key_content", "value")),
        *linear(f"{theirs}.o_proj", f"{ours}.out", inputs=2),
    )
    mlp, ours = "model.layers.{}.mlp", "layers.{}.experts"
    experts = (
        *decoder.expert_rules("mlp", gate="gate_proj", up="up_proj", down="down_proj"),
        Rule(f"{mlp}.gate.e_score_correction_bias", (f"{ours}.router.bias",), Flat()),
        *linear(f"{mlp}.shared_experts.gate_proj", f"{ours}.shared.gate"),
        *linear(f"{mlp}.shared_experts.up_proj", f"{ours}.shared.up"),
        *linear(f"{mlp}.shared_experts.down_proj", f"{ours}.shared.down"),
    )
    return decoder.decoder_rules(decoder.PRE_NORMS, attention=attention, experts=experts)


DEEPSEEK_V3 = Family(
    name="deepseek_v3",
    model_type="deepseek_v3",
    form="decoder",
    defaults={
        **decoder.DEFAULTS,
        "aux_loss_alpha": 0.0001,
        "first_k_dense_replace": 3,
        "kv_lora_rank": 512,
        "max_position_embeddings": 4096,
        "moe_intermediate_size": 2048,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_experts_per_tok": 8,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rope_interleave": True,
        "routed_scaling_factor": 2.5,
        "topk_group": 4,
        "v_head_dim": 128,
    },
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "DeepseekV3ForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)
