"""ModernBERT (Warner et al. 2024): a pre-norm encoder with rotary positions, gated units and local layers."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families import decoder
from lmjax.interop.families.bert import HEAD
from lmjax.interop.families.gpt2 import ACTIVATIONS
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import Flat, Joined, Linear
from lmjax.interop.table import Rule, linear, norm, same
from lmjax.interop.windows import FULL, SLIDING, from_layer_types, layer_types, one_window
from lmjax.models.config import ModelConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    hf.require("sliding_window", hf.get("local_attention") // 2)
    return read_model(hf, window=hf.get("local_attention") // 2 + 1)


def read_model(hf: HuggingFaceConfig, *, window: int) -> ModelConfig:
    """Returns the configuration of an encoder or a decoder; ``window`` is the window of the local layers."""
    bias = hf.get("mlp_bias")
    hf.require("attention_bias", bias)
    hf.require("classifier_bias", bias)
    activation = hf.get("hidden_activation")
    hf.require("classifier_activation", activation)
    hf.choice("classifier_activation", ACTIVATIONS)
    num_layers, every = hf.get("num_hidden_layers"), hf.get("global_attn_every_n_layers", 3)
    default = [SLIDING if layer % every else FULL for layer in range(num_layers)]
    return ModelConfig(
        vocab_size=hf.get("vocab_size"),
        width=hf.get("hidden_size"),
        num_layers=num_layers,
        num_heads=hf.get("num_attention_heads"),
        feedforward_width=hf.get("intermediate_size"),
        max_length=hf.get("max_position_embeddings"),
        **_read_rope(hf),
        activation=hf.choice("hidden_activation", decoder.GATED),
        norm="layernorm",
        norm_epsilon=hf.get("norm_eps"),
        norm_bias=hf.get("norm_bias"),
        embedding_norm=True,
        skip_first_norm=True,
        bias=bias,
        head_bias=hf.get("decoder_bias"),
        head_transform=True,
        tie_embeddings=hf.get("tie_word_embeddings"),
        windows=from_layer_types(hf, window, default),
        dropout=hf.rate("mlp_dropout", "embedding_dropout"),
        attention_dropout=hf.get("attention_dropout"),
        init_std=hf.get("initializer_range"),
        residual_init="plain",
    )


def _read_rope(hf: HuggingFaceConfig) -> dict[str, Any]:
    parameters = hf.get("rope_parameters", None) or {}
    hf.require("rope_scaling", None)
    thetas = []
    for kind, old_key in ((FULL, "global_rope_theta"), (SLIDING, "local_rope_theta")):
        rope = {"rope_theta": hf.get(old_key), **(parameters.get(kind) or {})}
        if rope.pop("rope_type", "default") != "default" or set(rope) != {"rope_theta"}:
            raise hf.refusal("rope_parameters", parameters, "its rotary positions are not scaled here")
        thetas.append(float(rope["rope_theta"]))
    return {"rope_theta": thetas[0], "local_rope_theta": thetas[1]}


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    window = one_window(config.windows) or 65
    return {**write_model(config, ids), "local_attention": 2 * (window - 1)}


def write_model(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    """Returns their configuration without the window; otherwise the inverse of :func:`read_model`."""
    norm_bias = config.bias if config.norm_bias is None else config.norm_bias
    activation = decoder.their_gated(config.activation)
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.hidden_width,
        "max_position_embeddings": config.max_length,
        "hidden_activation": activation,
        "classifier_activation": activation,
        "norm_eps": config.norm_epsilon,
        "norm_bias": norm_bias,
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
        "classifier_bias": config.bias,
        "decoder_bias": config.head_bias,
        "layer_types": layer_types(config.windows, config.num_layers),
        "global_rope_theta": config.rope_theta,
        "local_rope_theta": config.rope_theta if config.local_rope_theta is None else config.local_rope_theta,
        "embedding_dropout": config.dropout,
        "mlp_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "cls_token_id": ids.get("cls"),
        "sep_token_id": ids.get("sep"),
    }


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "model.layers.{}", "layers.{}"
    qkv = [f"{ours}.attention.{name}" for name in ("query", "key", "value")]
    # The half that goes through the activation comes first.
    gated = [f"{ours}.feedforward.{name}" for name in ("gate", "up")]
    return (
        same("model.embeddings.tok_embeddings.weight", "embedding.table_VD"),
        *norm("model.embeddings.norm", "embedding_norm"),
        *norm(f"{theirs}.attn_norm", f"{ours}.attention_norm"),
        Rule(f"{theirs}.attn.Wqkv.weight", tuple(f"{n}.weight" for n in qkv), Joined(Linear())),
        Rule(f"{theirs}.attn.Wqkv.bias", tuple(f"{n}.bias" for n in qkv), Joined(Flat())),
        *linear(f"{theirs}.attn.Wo", f"{ours}.attention.out", inputs=2),
        *norm(f"{theirs}.mlp_norm", f"{ours}.feedforward_norm"),
        Rule(f"{theirs}.mlp.Wi.weight", tuple(f"{n}.weight" for n in gated), Joined(Linear())),
        Rule(f"{theirs}.mlp.Wi.bias", tuple(f"{n}.bias" for n in gated), Joined(Flat())),
        *linear(f"{theirs}.mlp.Wo", f"{ours}.feedforward.down"),
        *norm("model.final_norm", "final_norm"),
        *linear("head.dense", "head_dense"),
        *norm("head.norm", "head_norm"),
        Rule("decoder.weight", ("head_weight_DV",), Linear()),
        Rule("decoder.bias", ("head_bias_V",), Flat()),
    )


def unused(config: ModelConfig) -> dict[str, float]:
    """Returns the parameters that no computation reads, with their values.

    The first block has no norm before its attention. Our model has one there, which is not used.
    """
    norm_bias = config.bias if config.norm_bias is None else config.norm_bias
    return {"layers.0.attention_norm.scale": 1.0, **({"layers.0.attention_norm.bias": 0.0} if norm_bias else {})}


MODERNBERT = Family(
    name="modernbert",
    model_type="modernbert",
    form="encoder",
    defaults={
        "attention_bias": False,
        "attention_dropout": 0.0,
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "decoder_bias": True,
        "embedding_dropout": 0.0,
        "global_rope_theta": 160_000.0,
        "hidden_activation": "gelu",
        "initializer_range": 0.02,
        "local_attention": 128,
        "local_rope_theta": 10_000.0,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "norm_bias": False,
        "norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "ModernBertForMaskedLM",
    prefix="model.",
    head=HEAD,
    aliases={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    unused=unused,
)
