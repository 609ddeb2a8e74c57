"""GPT-NeoX and Pythia (Black et al. 2022; Biderman et al. 2023): parallel residuals, partly rotary heads."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families.gpt2 import ACTIVATIONS, their_activation
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import Interleaved, Linear
from lmjax.interop.rope_config import read_rope_parameters, write_scaling
from lmjax.interop.table import Rule, linear, norm, same
from lmjax.models.config import ModelConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    hf.require("attention_bias", True)
    hf.ignore("is_decoder")
    max_length = hf.get("max_position_embeddings")
    # This family's own names of the two keys take precedence over the usual ones.
    parameters = hf.get("rope_parameters", None)
    parameters = hf.get("rope_scaling", None) or parameters or {}
    theta, fraction = hf.get("rotary_emb_base"), hf.get("rotary_pct")
    rope = read_rope_parameters(hf, parameters, max_length=max_length, theta=theta, fraction=fraction)
    return ModelConfig(
        vocab_size=hf.get("vocab_size"),
        width=hf.get("hidden_size"),
        num_layers=hf.get("num_hidden_layers"),
        num_heads=hf.get("num_attention_heads"),
        feedforward_width=hf.get("intermediate_size"),
        max_length=max_length,
        residual="parallel_two_norms" if hf.get("use_parallel_residual") else "pre",
        activation=hf.choice("hidden_act", ACTIVATIONS),
        norm="layernorm",
        norm_epsilon=hf.get("layer_norm_eps"),
        bias=True,
        tie_embeddings=hf.get("tie_word_embeddings"),
        dropout=hf.get("hidden_dropout"),
        attention_dropout=hf.get("attention_dropout"),
        init_std=hf.get("initializer_range"),
        residual_init="plain",
        **rope,
    )


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.hidden_width,
        "max_position_embeddings": config.max_length,
        "use_parallel_residual": config.residual == "parallel_two_norms",
        "hidden_act": their_activation(config.activation),
        "layer_norm_eps": config.norm_epsilon,
        "attention_bias": config.bias,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "rotary_pct": config.rope_fraction,
        "rotary_emb_base": config.rope_theta,
        "rope_scaling": write_scaling(config.rope_scaling),
    }


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "gpt_neox.layers.{}", "layers.{}"
    qkv = [f"{ours}.attention.{name}" for name in ("query", "key", "value")]
    return (
        same("gpt_neox.embed_in.weight", "embedding.table_VD"),
        *norm(f"{theirs}.input_layernorm", f"{ours}.attention_norm"),
        Rule(f"{theirs}.attention.query_key_value.weight", tuple(f"{n}.weight" for n in qkv), Interleaved()),
        Rule(f"{theirs}.attention.query_key_value.bias", tuple(f"{n}.bias" for n in qkv), Interleaved(inputs=0)),
        *linear(f"{theirs}.attention.dense", f"{ours}.attention.out", inputs=2),
        *norm(f"{theirs}.post_attention_layernorm", f"{ours}.feedforward_norm"),
        *linear(f"{theirs}.mlp.dense_h_to_4h", f"{ours}.feedforward.up"),
        *linear(f"{theirs}.mlp.dense_4h_to_h", f"{ours}.feedforward.down"),
        *norm("gpt_neox.final_layer_norm", "final_norm"),
        Rule("embed_out.weight", ("head_weight_DV",), Linear()),
    )


GPT_NEOX = Family(
    name="gpt_neox",
    model_type="gpt_neox",
    form="decoder",
    defaults={
        "attention_bias": True,
        "attention_dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "rotary_emb_base": 10_000.0,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
    },
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "GPTNeoXForCausalLM",
    prefix="gpt_neox.",
    aliases={"embed_out.weight": "gpt_neox.embed_in.weight"},
    buffers=r".*\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
    heads_divide_width=True,
)
