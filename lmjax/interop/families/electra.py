"""ELECTRA's generator and discriminator (Clark et al. 2020): BERT with a narrow token table where the sizes differ."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families.bert import DEFAULTS, HEAD, encoder_rules, read_encoder, write_encoder
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import Flat, Linear
from lmjax.interop.table import Rule, linear, norm
from lmjax.models.config import ModelConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    # ELECTRA's head has this activation whatever the layers have.
    hf.require("hidden_act", "gelu")
    width, embedding_width = hf.get("hidden_size"), hf.get("embedding_size")
    return read_encoder(hf, embedding_width=None if embedding_width == width else embedding_width)


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return {**write_encoder(config), "embedding_size": config.table_width}


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    head = "generator_predictions"
    return (
        *encoder_rules("electra"),
        *linear("electra.embeddings_project", "embedding_projection"),
        *linear(f"{head}.dense", "head_dense"),
        *norm(f"{head}.LayerNorm", "head_norm"),
        Rule("generator_lm_head.bias", ("head_bias_V",), Flat()),
        Rule("generator_lm_head.weight", ("head_weight_DV",), Linear()),
    )


ELECTRA = Family(
    name="electra",
    model_type="electra",
    form="encoder",
    defaults={**DEFAULTS, "embedding_size": 128},
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "ElectraForMaskedLM",
    prefix="electra.",
    head=HEAD,
    aliases={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    buffers=r"electra\.embeddings\.position_ids",
)


def _discriminator_rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    stack = (*encoder_rules("electra"), *linear("electra.embeddings_project", "embedding_projection"))
    return (
        *(dataclasses.replace(rule, ours=tuple(f"model.{name}" for name in rule.ours)) for rule in stack),
        *linear("discriminator_predictions.dense", "extras.classifier_dense"),
        *linear("discriminator_predictions.dense_prediction", "extras.classifier"),
    )


ELECTRA_DISCRIMINATOR = dataclasses.replace(
    ELECTRA,
    name="electra_discriminator",
    form="discriminator",
    head=(),
    rules=_discriminator_rules,
    architecture=lambda config: "ElectraForPreTraining",
    aliases={},
    told_by="discriminator_predictions.dense.weight",
)
