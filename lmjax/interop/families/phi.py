"""Phi 1, 1.5 and 2 (Gunasekar et al. 2023; Li et al. 2023): parallel sublayers; Phi 3 and 4 (Abdin et al. 2024): Llama
with fused projections."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families import decoder
from lmjax.interop.families.gpt2 import ACTIVATIONS, their_activation
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import Flat, Joined, Linear
from lmjax.interop.rope_config import read_rope, write_rope
from lmjax.interop.table import HEAD, Rule, linear, norm, same
from lmjax.models.config import ModelConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    hf.require("qk_layernorm", False)
    num_heads, max_length = hf.get("num_attention_heads"), hf.get("max_position_embeddings")
    return ModelConfig(
        vocab_size=hf.get("vocab_size"),
        width=hf.get("hidden_size"),
        num_layers=hf.get("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=hf.get("num_key_value_heads", None) or num_heads,
        head_width=hf.get("head_dim", None),
        feedforward_width=hf.get("intermediate_size"),
        max_length=max_length,
        residual="parallel",
        activation=hf.choice("hidden_act", ACTIVATIONS),
        norm="layernorm",
        norm_epsilon=hf.get("layer_norm_eps"),
        bias=True,
        head_bias=True,
        tie_embeddings=hf.get("tie_word_embeddings"),
        dropout=hf.rate("resid_pdrop", "embd_pdrop"),
        attention_dropout=hf.get("attention_dropout"),
        init_std=hf.get("initializer_range"),
        residual_init="plain",
        **read_rope(hf, max_length=max_length, fraction=0.5),
    )


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        **decoder.write_head_width(config),
        "intermediate_size": config.hidden_width,
        "max_position_embeddings": config.max_length,
        "hidden_act": their_activation(config.activation),
        "layer_norm_eps": config.norm_epsilon,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attention_dropout": config.attention_dropout,
        "partial_rotary_factor": config.rope_fraction,
        **write_rope(config),
    }


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "model.layers.{}", "layers.{}"
    return (
        same("model.embed_tokens.weight", "embedding.table_VD"),
        *norm(f"{theirs}.input_layernorm", f"{ours}.attention_norm"),
        *linear(f"{theirs}.self_attn.q_proj", f"{ours}.attention.query"),
        *linear(f"{theirs}.self_attn.k_proj", f"{ours}.attention.key"),
        *linear(f"{theirs}.self_attn.v_proj", f"{ours}.attention.value"),
        *linear(f"{theirs}.self_attn.dense", f"{ours}.attention.out", inputs=2),
        *linear(f"{theirs}.mlp.fc1", f"{ours}.feedforward.up"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}.feedforward.down"),
        *norm("model.final_layernorm", "final_norm"),
        HEAD,
        Rule("lm_head.bias", ("head_bias_V",), Flat()),
    )


PHI = Family(
    name="phi",
    model_type="phi",
    form="decoder",
    defaults={
        "attention_dropout": 0.0,
        "embd_pdrop": 0.0,
        "hidden_act": "gelu_new",
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": False,
    },
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "PhiForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)


def _read_3(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        hf.require(name, False)
    # These keys belong to long-context scaling, which is refused, and to a model with other kinds of layers.
    hf.ignore("original_max_position_embeddings", "full_attn_mod", "interpolate_factor")
    return decoder.read_decoder(hf, windows=(hf.get("sliding_window", None),), dropout=hf.get("resid_pdrop"))


def _write_3(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    values = decoder.write_decoder(config)
    del values["head_dim"]
    return {
        **values,
        **decoder.write_head_width(config),
        "original_max_position_embeddings": config.max_length,
        "partial_rotary_factor": config.rope_fraction,
        "resid_pdrop": config.dropout,
        "sliding_window": config.windows[0],
    }


def _rules_3(_: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "model.layers.{}", "layers.{}"
    qkv = tuple(f"{ours}.attention.{name}.weight" for name in ("query", "key", "value"))
    gate_up = tuple(f"{ours}.feedforward.{name}.weight" for name in ("gate", "up"))
    return (
        Rule(f"{theirs}.self_attn.qkv_proj.weight", qkv, Joined(Linear())),
        Rule(f"{theirs}.mlp.gate_up_proj.weight", gate_up, Joined(Linear())),
        # The other tensors have Llama's names; Llama's rules for the projections fused above are left out.
        *(rule for rule in decoder.decoder_rules(decoder.PRE_NORMS) if rule.ours[0] not in (*qkv, *gate_up)),
    )


PHI3 = Family(
    name="phi3",
    model_type="phi3",
    form="decoder",
    defaults={**decoder.DEFAULTS, "max_position_embeddings": 4096, "resid_pdrop": 0.0, "rms_norm_eps": 1e-5},
    read=_read_3,
    write=_write_3,
    rules=_rules_3,
    architecture=lambda config: "Phi3ForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)
