"""Llama 1 to 3 (Touvron et al. 2023; Grattafiori et al. 2024), and models built like it."""

from collections.abc import Collection
from typing import Any

from lmjax.interop.families import decoder
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.models.config import ModelConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    return decoder.read_decoder(hf, **decoder.read_biases(hf))


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return {**decoder.write_decoder(config), **decoder.write_biases(config)}


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
