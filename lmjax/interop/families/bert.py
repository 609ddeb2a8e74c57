"""BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019) and models like it: XLM-R (Conneau et al. 2020), CamemBERT
(2020)."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families.gpt2 import ACTIVATIONS, their_activation
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import FirstRowsUnused, Flat, Linear
from lmjax.interop.table import Rule, linear, norm, same
from lmjax.models.config import ModelConfig

DEFAULTS: dict[str, Any] = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
    "type_vocab_size": 2,
}


def read_encoder(hf: HuggingFaceConfig, **fields: Any) -> ModelConfig:
    """Returns the configuration of a post-norm encoder; ``fields`` adds or replaces fields for one family."""
    hf.require("position_embedding_type", "absolute")
    common = {
        "vocab_size": hf.get("vocab_size"),
        "width": hf.get("hidden_size"),
        "num_layers": hf.get("num_hidden_layers"),
        "num_heads": hf.get("num_attention_heads"),
        "feedforward_width": hf.get("intermediate_size"),
        "max_length": hf.get("max_position_embeddings"),
        "positions": "learned",
        "residual": "post",
        "activation": hf.choice("hidden_act", ACTIVATIONS),
        "norm": "layernorm",
        "norm_epsilon": hf.get("layer_norm_eps"),
        "final_norm": False,
        "embedding_norm": True,
        "bias": True,
        "head_bias": True,
        "head_transform": True,
        "tie_embeddings": hf.get("tie_word_embeddings"),
        "num_types": _num_types(hf),
        "dropout": hf.get("hidden_dropout_prob"),
        "attention_dropout": hf.get("attention_probs_dropout_prob"),
        "init_std": hf.get("initializer_range"),
        "residual_init": "plain",
    }
    return ModelConfig(**{**common, **fields})


def _num_types(hf: HuggingFaceConfig) -> int:
    num_types = hf.get("type_vocab_size")
    if num_types < 1:
        raise hf.refusal("type_vocab_size", num_types, "transformers looks up type 0 at least")
    return num_types


def write_encoder(config: ModelConfig) -> dict[str, Any]:
    """Returns their configuration; the inverse of :func:`read_encoder`."""
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.hidden_width,
        "max_position_embeddings": config.max_length,
        "hidden_act": their_activation(config.activation),
        "layer_norm_eps": config.norm_epsilon,
        "type_vocab_size": config.num_types,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "initializer_range": 0.02 if config.init_std is None else config.init_std,
    }


def encoder_rules(prefix: str, *, unused_positions: int = 0) -> tuple[Rule, ...]:
    """Returns the table of embeddings and blocks; the names of its tensors begin with ``prefix``."""
    theirs, ours = f"{prefix}.encoder.layer.{{}}", "layers.{}"
    embeddings = f"{prefix}.embeddings"
    positions = FirstRowsUnused(unused_positions) if unused_positions else Flat(2)
    return (
        same(f"{embeddings}.word_embeddings.weight", "embedding.table_VD"),
        Rule(f"{embeddings}.position_embeddings.weight", ("position_embedding.table_VD",), positions),
        same(f"{embeddings}.token_type_embeddings.weight", "type_embedding.table_VD"),
        *norm(f"{embeddings}.LayerNorm", "embedding_norm"),
        *linear(f"{theirs}.attention.self.query", f"{ours}.attention.query"),
        *linear(f"{theirs}.attention.self.key", f"{ours}.attention.key"),
        *linear(f"{theirs}.attention.self.value", f"{ours}.attention.value"),
        *linear(f"{theirs}.attention.output.dense", f"{ours}.attention.out", inputs=2),
        *norm(f"{theirs}.attention.output.LayerNorm", f"{ours}.attention_norm"),
        *linear(f"{theirs}.intermediate.dense", f"{ours}.feedforward.up"),
        *linear(f"{theirs}.output.dense", f"{ours}.feedforward.down"),
        *norm(f"{theirs}.output.LayerNorm", f"{ours}.feedforward_norm"),
    )


HEAD = ("head_dense", "head_norm", "head_weight_DV", "head_bias_V")
"""The parameters that a base model is saved without."""


def head_rules(values: Mapping[str, Any], dense: str, layer_norm: str, bias: str, decoder: str) -> tuple[Rule, ...]:
    """Returns the table of a head with a dense layer and a norm before the output map, from the names of its parts.

    The bias is stored a second time as ``decoder.bias``. Where the output map is not tied to the token table, the two
    may differ, and transformers adds the second one.
    """
    return (
        *linear(dense, "head_dense"),
        *norm(layer_norm, "head_norm"),
        Rule(bias, ("head_bias_V",), Flat()),
        *(() if values.get("tie_word_embeddings", True) else (Rule(f"{decoder}.bias", ("head_bias_V",), Flat()),)),
        Rule(f"{decoder}.weight", ("head_weight_DV",), Linear()),
    )


def _read_bert(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    return read_encoder(
        hf, pooler="bert.pooler.dense.weight" in names, pair_head="cls.seq_relationship.weight" in names
    )


def _bert_rules(values: Mapping[str, Any]) -> Sequence[Rule]:
    head = "cls.predictions"
    return (
        *encoder_rules("bert"),
        *linear("bert.pooler.dense", "pooler"),
        *linear("cls.seq_relationship", "pair_classifier"),
        *head_rules(
            values, f"{head}.transform.dense", f"{head}.transform.LayerNorm", f"{head}.bias", f"{head}.decoder"
        ),
    )


def _write_bert(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return write_encoder(config)


BERT = Family(
    name="bert",
    model_type="bert",
    form="encoder",
    defaults=DEFAULTS,
    read=_read_bert,
    write=_write_bert,
    rules=_bert_rules,
    architecture=lambda config: "BertForPreTraining" if config.pair_head else "BertForMaskedLM",
    prefix="bert.",
    head=HEAD,
    aliases={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    buffers=r"bert\.embeddings\.position_ids",
)


def _first_position(values: Mapping[str, Any]) -> int:
    """Returns the number of RoBERTa's first position, which is its padding id plus one."""
    pad_id = values.get("pad_token_id")
    return 1 + (1 if pad_id is None else pad_id)


def _read_roberta(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    # RoBERTa's head has this activation whatever the layers have.
    hf.require("hidden_act", "gelu")
    unused = _first_position({"pad_token_id": hf.get("pad_token_id")})
    return read_encoder(hf, max_length=hf.get("max_position_embeddings") - unused)


def _write_roberta(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    pad_id = ids.get("pad")
    special = {"pad_token_id": 1 if pad_id is None else pad_id}
    rows = config.max_length + _first_position(special)
    return {**write_encoder(config), **special, "max_position_embeddings": rows}


def _roberta_rules(values: Mapping[str, Any]) -> Sequence[Rule]:
    return (
        *encoder_rules("roberta", unused_positions=_first_position(values)),
        *head_rules(values, "lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder"),
    )


ROBERTA = Family(
    name="roberta",
    model_type="roberta",
    form="encoder",
    defaults={**DEFAULTS, "pad_token_id": 1},
    read=_read_roberta,
    write=_write_roberta,
    rules=_roberta_rules,
    architecture=lambda config: "RobertaForMaskedLM",
    prefix="roberta.",
    head=HEAD,
    aliases={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    # The pooler of published checkpoints was never trained.
    buffers=r"roberta\.embeddings\.position_ids|roberta\.pooler\.dense\.(weight|bias)",
)

XLM_ROBERTA = dataclasses.replace(
    ROBERTA,
    name="xlm-roberta",
    model_type="xlm-roberta",
    architecture=lambda config: "XLMRobertaForMaskedLM",
)

CAMEMBERT = dataclasses.replace(
    ROBERTA,
    name="camembert",
    model_type="camembert",
    architecture=lambda config: "CamembertForMaskedLM",
)
