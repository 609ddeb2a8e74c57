"""ALBERT (Lan et al. 2020): one block for all layers, a narrow token table."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families.bert import DEFAULTS, HEAD, head_rules, read_encoder, write_encoder
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.table import Rule, linear, norm, same
from lmjax.models.config import ModelConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    hf.require("num_hidden_groups", 1)
    hf.require("inner_group_num", 1)
    return read_encoder(
        hf,
        embedding_width=hf.get("embedding_size"),
        share_layers=True,
        pooler="albert.pooler.weight" in names,
        pair_head="sop_classifier.classifier.weight" in names,
    )


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return {
        **write_encoder(config),
        "embedding_size": config.table_width,
        "num_hidden_groups": 1,
        "inner_group_num": 1,
    }


def _rules(values: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "albert.encoder.albert_layer_groups.0.albert_layers.0", "layers.0"
    embeddings, head = "albert.embeddings", "predictions"
    return (
        same(f"{embeddings}.word_embeddings.weight", "embedding.table_VD"),
        same(f"{embeddings}.position_embeddings.weight", "position_embedding.table_VD"),
        same(f"{embeddings}.token_type_embeddings.weight", "type_embedding.table_VD"),
        *norm(f"{embeddings}.LayerNorm", "embedding_norm"),
        *linear("albert.encoder.embedding_hidden_mapping_in", "embedding_projection"),
        *linear(f"{theirs}.attention.query", f"{ours}.attention.query"),
        *linear(f"{theirs}.attention.key", f"{ours}.attention.key"),
        *linear(f"{theirs}.attention.value", f"{ours}.attention.value"),
        *linear(f"{theirs}.attention.dense", f"{ours}.attention.out", inputs=2),
        *norm(f"{theirs}.attention.LayerNorm", f"{ours}.attention_norm"),
        *linear(f"{theirs}.ffn", f"{ours}.feedforward.up"),
        *linear(f"{theirs}.ffn_output", f"{ours}.feedforward.down"),
        *norm(f"{theirs}.full_layer_layer_norm", f"{ours}.feedforward_norm"),
        *linear("albert.pooler", "pooler"),
        *linear("sop_classifier.classifier", "pair_classifier"),
        *head_rules(values, f"{head}.dense", f"{head}.LayerNorm", f"{head}.bias", f"{head}.decoder"),
    )


ALBERT = Family(
    name="albert",
    model_type="albert",
    form="encoder",
    defaults={
        **DEFAULTS,
        "attention_probs_dropout_prob": 0.0,
        "embedding_size": 128,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
    },
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "AlbertForPreTraining" if config.pair_head else "AlbertForMaskedLM",
    prefix="albert.",
    head=HEAD,
    aliases={
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    buffers=r"albert\.embeddings\.position_ids",
)
