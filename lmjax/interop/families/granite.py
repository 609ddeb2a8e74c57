"""Granite 3 (Granite Team 2024): Llama with a factor on embeddings, attention, sublayers and logits."""

from collections.abc import Collection
from typing import Any

from lmjax.interop.families import decoder, llama
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.models.config import ModelConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    bias = hf.get("mlp_bias")
    hf.require("attention_bias", bias)
    return decoder.read_decoder(
        hf,
        bias=bias,
        embedding_scale=float(hf.get("embedding_multiplier")),
        attention_scale=float(hf.get("attention_multiplier")),
        sublayer_scale=float(hf.get("residual_multiplier")),
        logit_scale=1 / hf.get("logits_scaling"),
    )


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    scale = config.key_width**-0.5 if config.attention_scale is None else config.attention_scale
    return {
        **decoder.write_decoder(config),
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
        "embedding_multiplier": config.embedding_scale,
        "attention_multiplier": scale,
        "residual_multiplier": config.sublayer_scale,
        # Rounding the number here removes the error of taking the inverse twice.
        "logits_scaling": float(f"{1 / config.logit_scale:.12g}"),
    }


GRANITE = Family(
    name="granite",
    model_type="granite",
    form="decoder",
    defaults={
        **llama.LLAMA.defaults,
        "attention_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
    },
    read=_read,
    write=_write,
    rules=decoder.pre_norm_rules,
    architecture=lambda config: "GraniteForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)
