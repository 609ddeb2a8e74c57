"""Mistral (Jiang et al. 2023) and Mixtral (Jiang et al. 2024): Llama with a sliding window, and with experts."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families import decoder
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.table import Rule
from lmjax.models.config import ModelConfig
from lmjax.models.routing import ExpertsConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    return decoder.read_decoder(hf, windows=(hf.get("sliding_window", 4096),))


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return {**decoder.write_decoder(config), "sliding_window": config.windows[0]}


MISTRAL = Family(
    name="mistral",
    model_type="mistral",
    form="decoder",
    defaults={**decoder.DEFAULTS, "max_position_embeddings": 131072, "num_key_value_heads": 8},
    read=_read,
    write=_write,
    rules=decoder.pre_norm_rules,
    architecture=lambda config: "MistralForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)


def _read_mixtral(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    experts = ExpertsConfig(
        number=hf.get("num_local_experts"),
        per_token=hf.get("num_experts_per_tok"),
        balance_loss=hf.get("router_aux_loss_coef"),
    )
    return decoder.read_decoder(hf, windows=(hf.get("sliding_window", None),), experts=experts)


def _write_mixtral(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    width = config.hidden_width if config.experts.width is None else config.experts.width
    return {
        **decoder.write_decoder(config),
        "intermediate_size": width,
        "sliding_window": config.windows[0],
        "num_local_experts": config.experts.number,
        "num_experts_per_tok": config.experts.per_token,
        "router_aux_loss_coef": config.experts.balance_loss,
    }


def _mixtral_rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    experts = decoder.expert_rules("block_sparse_moe", gate="w1", up="w3", down="w2")
    return decoder.decoder_rules(decoder.PRE_NORMS, experts=experts)


MIXTRAL = Family(
    name="mixtral",
    model_type="mixtral",
    form="decoder",
    defaults={
        **decoder.DEFAULTS,
        "max_position_embeddings": 131072,
        "num_experts_per_tok": 2,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "router_aux_loss_coef": 0.001,
    },
    read=_read_mixtral,
    write=_write_mixtral,
    rules=_mixtral_rules,
    architecture=lambda config: "MixtralForCausalLM",
    prefix="model.",
    synonyms={"num_experts": "num_local_experts"},
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)
