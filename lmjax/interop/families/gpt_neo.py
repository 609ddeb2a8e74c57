"""GPT-Neo (Black et al. 2021): GPT-2 with every other layer local, and attention logits that are not scaled."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families.gpt2 import ACTIVATIONS, their_activation
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.table import HEAD, Rule, linear, norm, same
from lmjax.interop.windows import Windows, one_window, shortest_pattern, unrolled
from lmjax.models.config import ModelConfig

_GLOBAL, _LOCAL = "global", "local"


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    return ModelConfig(
        vocab_size=hf.get("vocab_size"),
        width=hf.get("hidden_size"),
        num_layers=hf.get("num_layers"),
        num_heads=hf.get("num_heads"),
        feedforward_width=hf.get("intermediate_size", None),
        max_length=hf.get("max_position_embeddings"),
        positions="learned",
        activation=hf.choice("activation_function", ACTIVATIONS),
        norm="layernorm",
        norm_epsilon=hf.get("layer_norm_epsilon"),
        bias=True,
        qkv_bias=False,
        tie_embeddings=hf.get("tie_word_embeddings"),
        attention_scale=1.0,
        windows=_read_windows(hf),
        dropout=hf.rate("resid_dropout", "embed_dropout"),
        attention_dropout=hf.get("attention_dropout"),
        init_std=hf.get("initializer_range"),
        residual_init="plain",
    )


def _read_windows(hf: HuggingFaceConfig) -> Windows:
    """Returns the pattern of windows, from a list of (sequence of kinds of layers, how often it repeats)."""
    # "attention_layers" is the key "attention_types" written out, one entry a layer.
    hf.ignore("attention_layers")
    types, num_layers = hf.get("attention_types"), hf.get("num_layers")
    kinds = [kind for pattern, times in types for kind in [*pattern] * times]
    if len(kinds) != num_layers or not {_GLOBAL, _LOCAL}.issuperset(kinds):
        raise hf.refusal("attention_types", types, f"{_GLOBAL} or {_LOCAL} for each of num_layers={num_layers} is")
    return shortest_pattern([hf.get("window_size") if kind == _LOCAL else None for kind in kinds])


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    per_layer = unrolled(config.windows, config.num_layers)
    kinds = [_GLOBAL if window is None else _LOCAL for window in per_layer]
    return {
        "hidden_size": config.width,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "intermediate_size": config.feedforward_width,
        "max_position_embeddings": config.max_length,
        "activation_function": their_activation(config.activation),
        "layer_norm_epsilon": config.norm_epsilon,
        "attention_types": [[kinds, 1]],
        "window_size": one_window(config.windows) or 256,
        "resid_dropout": config.dropout,
        "embed_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "initializer_range": 0.02 if config.init_std is None else config.init_std,
    }


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "transformer.h.{}", "layers.{}"
    return (
        same("transformer.wte.weight", "embedding.table_VD"),
        same("transformer.wpe.weight", "position_embedding.table_VD"),
        *norm(f"{theirs}.ln_1", f"{ours}.attention_norm"),
        *linear(f"{theirs}.attn.attention.q_proj", f"{ours}.attention.query"),
        *linear(f"{theirs}.attn.attention.k_proj", f"{ours}.attention.key"),
        *linear(f"{theirs}.attn.attention.v_proj", f"{ours}.attention.value"),
        *linear(f"{theirs}.attn.attention.out_proj", f"{ours}.attention.out", inputs=2),
        *norm(f"{theirs}.ln_2", f"{ours}.feedforward_norm"),
        *linear(f"{theirs}.mlp.c_fc", f"{ours}.feedforward.up"),
        *linear(f"{theirs}.mlp.c_proj", f"{ours}.feedforward.down"),
        *norm("transformer.ln_f", "final_norm"),
        HEAD,
    )


GPT_NEO = Family(
    name="gpt_neo",
    model_type="gpt_neo",
    form="decoder",
    defaults={
        "activation_function": "gelu_new",
        "attention_dropout": 0.0,
        "attention_types": [[[_GLOBAL, _LOCAL], 12]],
        "embed_dropout": 0.0,
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "max_position_embeddings": 2048,
        "num_heads": 16,
        "num_layers": 24,
        "resid_dropout": 0.0,
        "tie_word_embeddings": True,
        "window_size": 256,
    },
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "GPTNeoForCausalLM",
    prefix="transformer.",
    synonyms={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
    aliases={"lm_head.weight": "transformer.wte.weight"},
    # Early versions stored causal masks.
    buffers=r".*\.attn\.attention\.(masked_)?bias",
)
