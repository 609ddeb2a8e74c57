"""OLMo 2 (OLMo Team 2024): norms on what the sublayers return, and on queries and keys as a whole."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families import decoder
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.table import Rule
from lmjax.models.config import ModelConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    hf.require("attention_bias", False)
    return decoder.read_decoder(hf, residual="output", qk_norm="projection")


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    values = decoder.write_decoder(config)
    # Their heads are always as wide as the model divided by their number.
    if config.key_width * config.num_heads == config.width:
        del values["head_dim"]
    return values


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    return decoder.decoder_rules(
        {"post_attention_layernorm": "attention_norm", "post_feedforward_layernorm": "feedforward_norm"}
    )


OLMO2 = Family(
    name="olmo2",
    model_type="olmo2",
    form="decoder",
    defaults={**decoder.DEFAULTS, "rms_norm_eps": 1e-5},
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "Olmo2ForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)
