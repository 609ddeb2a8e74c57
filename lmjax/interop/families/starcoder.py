"""StarCoder (GPT-BigCode: Li et al. 2023): GPT-2 with one key-value head. StarCoder 2 (Lozhkov et al. 2024): rotary
positions."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families import decoder, gpt2
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import Flat, Interleaved, Joined, Layout, Linear
from lmjax.interop.rope_config import read_rope, write_rope
from lmjax.interop.table import HEAD, Rule, linear, norm, same
from lmjax.models.config import ModelConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    # These keys say how the same numbers are computed.
    hf.ignore("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "inference_runner", "max_batch_size")
    hf.ignore("max_sequence_length", "pad_key_length", "pre_allocate_kv_cache", "validate_runner_input")
    hf.ignore("runner_max_sequence_length", "num_key_value_heads")
    num_heads = hf.get("n_head")
    return gpt2.read_gpt2(hf, num_kv_heads=1 if hf.get("multi_query") else num_heads)


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return {**gpt2.write_gpt2(config), "multi_query": config.kv_heads == 1}


def _rules(values: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "transformer.h.{}", "layers.{}"
    qkv = [f"{ours}.attention.{name}" for name in ("query", "key", "value")]
    weight: Layout = Joined(Linear()) if values["multi_query"] else Interleaved()
    bias: Layout = Joined(Flat()) if values["multi_query"] else Interleaved(inputs=0)
    return (
        same("transformer.wte.weight", "embedding.table_VD"),
        same("transformer.wpe.weight", "position_embedding.table_VD"),
        *norm(f"{theirs}.ln_1", f"{ours}.attention_norm"),
        Rule(f"{theirs}.attn.c_attn.weight", tuple(f"{name}.weight" for name in qkv), weight),
        Rule(f"{theirs}.attn.c_attn.bias", tuple(f"{name}.bias" for name in qkv), bias),
        *linear(f"{theirs}.attn.c_proj", f"{ours}.attention.out", inputs=2),
        *norm(f"{theirs}.ln_2", f"{ours}.feedforward_norm"),
        *linear(f"{theirs}.mlp.c_fc", f"{ours}.feedforward.up"),
        *linear(f"{theirs}.mlp.c_proj", f"{ours}.feedforward.down"),
        *norm("transformer.ln_f", "final_norm"),
        HEAD,
    )


GPT_BIGCODE = Family(
    name="gpt_bigcode",
    model_type="gpt_bigcode",
    form="decoder",
    defaults={**gpt2.DEFAULTS, "activation_function": "gelu_pytorch_tanh", "multi_query": True},
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "GPTBigCodeForCausalLM",
    prefix="transformer.",
    synonyms=gpt2.SYNONYMS,
    aliases={"lm_head.weight": "transformer.wte.weight"},
    # Early versions stored causal masks.
    buffers=r".*\.attn\.(masked_)?bias",
)


def _read_2(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    hf.require("mlp_type", "default")
    hf.require("norm_type", "layer_norm")
    max_length = hf.get("max_position_embeddings")
    return ModelConfig(
        vocab_size=hf.get("vocab_size"),
        width=hf.get("hidden_size"),
        num_layers=hf.get("num_hidden_layers"),
        num_heads=hf.get("num_attention_heads"),
        num_kv_heads=hf.get("num_key_value_heads"),
        head_width=hf.get("head_dim", None),
        feedforward_width=hf.get("intermediate_size"),
        max_length=max_length,
        activation=hf.choice("hidden_act", gpt2.ACTIVATIONS),
        norm="layernorm",
        norm_epsilon=hf.get("norm_epsilon"),
        norm_bias=True,
        bias=hf.get("use_bias"),
        windows=(hf.get("sliding_window", None),),
        tie_embeddings=hf.get("tie_word_embeddings"),
        dropout=hf.rate("residual_dropout", "embedding_dropout"),
        attention_dropout=hf.get("attention_dropout"),
        init_std=hf.get("initializer_range"),
        residual_init="plain",
        **read_rope(hf, max_length=max_length),
    )


def _write_2(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        **decoder.write_head_width(config),
        "intermediate_size": config.hidden_width,
        "max_position_embeddings": config.max_length,
        "hidden_act": gpt2.their_activation(config.activation),
        "norm_epsilon": config.norm_epsilon,
        "use_bias": config.bias,
        "sliding_window": config.windows[0],
        "residual_dropout": config.dropout,
        "embedding_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        **write_rope(config),
    }


def _rules_2(_: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "model.layers.{}", "layers.{}"
    return (
        same("model.embed_tokens.weight", "embedding.table_VD"),
        *decoder.attention_rules(f"{theirs}.self_attn", f"{ours}.attention"),
        *linear(f"{theirs}.mlp.c_fc", f"{ours}.feedforward.up"),
        *linear(f"{theirs}.mlp.c_proj", f"{ours}.feedforward.down"),
        *norm(f"{theirs}.input_layernorm", f"{ours}.attention_norm"),
        *norm(f"{theirs}.post_attention_layernorm", f"{ours}.feedforward_norm"),
        *norm("model.norm", "final_norm"),
        HEAD,
    )


STARCODER2 = Family(
    name="starcoder2",
    model_type="starcoder2",
    form="decoder",
    defaults={
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "hidden_act": "gelu_pytorch_tanh",
        "initializer_range": 0.018042,
        "max_position_embeddings": 4096,
        "norm_epsilon": 1e-5,
        "num_key_value_heads": 2,
        "residual_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_bias": True,
    },
    read=_read_2,
    write=_write_2,
    rules=_rules_2,
    architecture=lambda config: "Starcoder2ForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)
