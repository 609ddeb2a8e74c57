"""OPT (Zhang et al. 2022): GPT-2 with rectified units, and positions counted from 2."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families.gpt2 import ACTIVATIONS, their_activation
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import FirstRowsUnused
from lmjax.interop.table import HEAD, Rule, linear, norm, same
from lmjax.models.config import ModelConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    width, pre_norm = hf.get("hidden_size"), hf.get("do_layer_norm_before")
    # The published model of 350M parameters maps a narrower token table to the model's width, and back.
    hf.require("word_embed_proj_dim", width)
    hf.require("layer_norm_elementwise_affine", True)
    return ModelConfig(
        vocab_size=hf.get("vocab_size"),
        width=width,
        num_layers=hf.get("num_hidden_layers"),
        num_heads=hf.get("num_attention_heads"),
        feedforward_width=hf.get("ffn_dim"),
        max_length=hf.get("max_position_embeddings"),
        positions="learned",
        residual="pre" if pre_norm else "post",
        activation=hf.choice("activation_function", ACTIVATIONS),
        norm="layernorm",
        norm_bias=True,
        final_norm=pre_norm and not hf.get("_remove_final_layer_norm"),
        bias=hf.get("enable_bias"),
        tie_embeddings=hf.get("tie_word_embeddings"),
        dropout=hf.get("dropout"),
        attention_dropout=hf.get("attention_dropout"),
        init_std=hf.get("init_std"),
        residual_init="plain",
    )


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    pre_norm = config.residual == "pre"
    return {
        "hidden_size": config.width,
        "word_embed_proj_dim": config.table_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "ffn_dim": config.hidden_width,
        "max_position_embeddings": config.max_length,
        "do_layer_norm_before": pre_norm,
        "_remove_final_layer_norm": pre_norm and not config.final_norm,
        "activation_function": their_activation(config.activation),
        "enable_bias": config.bias,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "init_std": 0.02 if config.init_std is None else config.init_std,
    }


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    stack, ours = "model.decoder", "layers.{}"
    theirs = f"{stack}.layers.{{}}"
    return (
        same(f"{stack}.embed_tokens.weight", "embedding.table_VD"),
        Rule(f"{stack}.embed_positions.weight", ("position_embedding.table_VD",), FirstRowsUnused(2)),
        *linear(f"{theirs}.self_attn.q_proj", f"{ours}.attention.query"),
        *linear(f"{theirs}.self_attn.k_proj", f"{ours}.attention.key"),
        *linear(f"{theirs}.self_attn.v_proj", f"{ours}.attention.value"),
        *linear(f"{theirs}.self_attn.out_proj", f"{ours}.attention.out", inputs=2),
        *norm(f"{theirs}.self_attn_layer_norm", f"{ours}.attention_norm"),
        *linear(f"{theirs}.fc1", f"{ours}.feedforward.up"),
        *linear(f"{theirs}.fc2", f"{ours}.feedforward.down"),
        *norm(f"{theirs}.final_layer_norm", f"{ours}.feedforward_norm"),
        *norm(f"{stack}.final_layer_norm", "final_norm"),
        HEAD,
    )


OPT = Family(
    name="opt",
    model_type="opt",
    form="decoder",
    defaults={
        "_remove_final_layer_norm": False,
        "activation_function": "relu",
        "attention_dropout": 0.0,
        "do_layer_norm_before": True,
        "dropout": 0.1,
        "enable_bias": True,
        "init_std": 0.02,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "OPTForCausalLM",
    prefix="model.",
    aliases={"lm_head.weight": "model.decoder.embed_tokens.weight"},
)
