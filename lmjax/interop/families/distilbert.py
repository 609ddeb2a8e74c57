"""DistilBERT (Sanh et al. 2019): BERT with half the layers, without segments and without a pooler."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families.bert import HEAD
from lmjax.interop.families.gpt2 import ACTIVATIONS, their_activation
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import Flat, Linear
from lmjax.interop.table import Rule, linear, norm, same
from lmjax.models.config import ModelConfig

_EPSILON = 1e-12
"""The epsilon of all its norms; config.json has no key for it."""


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    return ModelConfig(
        vocab_size=hf.get("vocab_size"),
        width=hf.get("dim"),
        num_layers=hf.get("n_layers"),
        num_heads=hf.get("n_heads"),
        feedforward_width=hf.get("hidden_dim"),
        max_length=hf.get("max_position_embeddings"),
        positions="learned",
        residual="post",
        activation=hf.choice("activation", ACTIVATIONS),
        norm="layernorm",
        norm_epsilon=_EPSILON,
        final_norm=False,
        embedding_norm=True,
        bias=True,
        head_bias=True,
        head_transform=True,
        tie_embeddings=hf.get("tie_word_embeddings"),
        dropout=hf.get("dropout"),
        attention_dropout=hf.get("attention_dropout"),
        init_std=hf.get("initializer_range"),
        residual_init="plain",
    )


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return {
        "dim": config.width,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "hidden_dim": config.hidden_width,
        "max_position_embeddings": config.max_length,
        "activation": their_activation(config.activation),
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "initializer_range": 0.02 if config.init_std is None else config.init_std,
    }


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "distilbert.transformer.layer.{}", "layers.{}"
    embeddings = "distilbert.embeddings"
    return (
        same(f"{embeddings}.word_embeddings.weight", "embedding.table_VD"),
        same(f"{embeddings}.position_embeddings.weight", "position_embedding.table_VD"),
        *norm(f"{embeddings}.LayerNorm", "embedding_norm"),
        *linear(f"{theirs}.attention.q_lin", f"{ours}.attention.query"),
        *linear(f"{theirs}.attention.k_lin", f"{ours}.attention.key"),
        *linear(f"{theirs}.attention.v_lin", f"{ours}.attention.value"),
        *linear(f"{theirs}.attention.out_lin", f"{ours}.attention.out", inputs=2),
        *norm(f"{theirs}.sa_layer_norm", f"{ours}.attention_norm"),
        *linear(f"{theirs}.ffn.lin1", f"{ours}.feedforward.up"),
        *linear(f"{theirs}.ffn.lin2", f"{ours}.feedforward.down"),
        *norm(f"{theirs}.output_layer_norm", f"{ours}.feedforward_norm"),
        *linear("vocab_transform", "head_dense"),
        *norm("vocab_layer_norm", "head_norm"),
        Rule("vocab_projector.bias", ("head_bias_V",), Flat()),
        Rule("vocab_projector.weight", ("head_weight_DV",), Linear()),
    )


DISTILBERT = Family(
    name="distilbert",
    model_type="distilbert",
    form="encoder",
    defaults={
        "activation": "gelu",
        "attention_dropout": 0.1,
        "dim": 768,
        "dropout": 0.1,
        "hidden_dim": 3072,
        "initializer_range": 0.02,
        "max_position_embeddings": 512,
        "n_heads": 12,
        "n_layers": 6,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    },
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "DistilBertForMaskedLM",
    prefix="distilbert.",
    head=HEAD,
    synonyms={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    aliases={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    buffers=r"distilbert\.embeddings\.position_ids",
)
