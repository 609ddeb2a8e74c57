"""Llama 1 to 3 (Touvron et al. 2023; Grattafiori et al. 2024), and what is built like it."""

from collections.abc import Collection
from typing import Any

from lmjax.interop.families import decoder
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.models.config import ModelConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    # Another order of summing in a matrix product; for training on several devices once.
    hf.ignore("pretraining_tp")
    bias = hf.get("mlp_bias")
    hf.require("attention_bias", bias)
    return decoder.read_decoder(hf, bias=bias)


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return {**decoder.write_decoder(config), "attention_bias": config.bias, "mlp_bias": config.bias}


LLAMA = Family(
    name="llama",
    model_type="llama",
    form="decoder",
    defaults={**decoder.DEFAULTS, "mlp_bias": False},
    read=_read,
    write=_write,
    rules=decoder.pre_norm_rules,
    architecture=lambda config: "LlamaForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
    heads_divide_width=True,
)
