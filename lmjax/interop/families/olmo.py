"""OLMo 1 (Groeneveld et al. 2024): Llama with layer norms that have no parameters."""

from collections.abc import Collection
from typing import Any

from lmjax.interop.families import decoder
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.models.config import ModelConfig

_EPSILON = 1e-5
"""The epsilon of every norm; their configuration has no key for it."""


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    hf.require("attention_bias", False)
    hf.ignore("pretraining_tp")
    return decoder.read_decoder(
        hf,
        norm="layernorm",
        norm_epsilon=_EPSILON,
        norm_scale=False,
        norm_bias=False,
        qkv_clip=hf.get("clip_qkv", None),
    )


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    values = decoder.write_decoder(config)
    del values["rms_norm_eps"], values["head_dim"]
    return {**values, **decoder.write_head_width(config), "clip_qkv": config.qkv_clip}


OLMO = Family(
    name="olmo",
    model_type="olmo",
    form="decoder",
    defaults=decoder.DEFAULTS,
    read=_read,
    write=_write,
    rules=decoder.pre_norm_rules,
    architecture=lambda config: "OlmoForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)
