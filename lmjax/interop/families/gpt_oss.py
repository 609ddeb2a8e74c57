"""gpt-oss (OpenAI 2025): experts with biases and a clamped gate, attention sinks, every other layer with a window."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families import decoder
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import Alternating, EveryExpert, Flat, Linear
from lmjax.interop.table import Rule, same
from lmjax.interop.windows import FULL, SLIDING, from_layer_types, layer_types, one_window
from lmjax.models.config import ModelConfig
from lmjax.models.layers import CLAMP
from lmjax.models.routing import ExpertsConfig


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    quantised = hf.get("quantization_config", None)
    if quantised is not None and (not isinstance(quantised, dict) or quantised.get("quant_method") != "mxfp4"):
        raise hf.refusal("quantization_config", quantised, "only 'mxfp4' is")
    # The first key says whether their own training adds the balance loss, for which ours has a weight. The second
    # repeats the context length before scaling.
    hf.ignore("output_router_logits", "initial_context_length")
    hf.require("hidden_act", "silu")
    hf.require("attention_bias", True)
    hf.require("swiglu_alpha", 1.702)
    hf.require("swiglu_limit", CLAMP)
    per_token = hf.get("num_experts_per_tok")
    hf.require("experts_per_token", per_token)
    experts = ExpertsConfig(
        number=hf.get("num_local_experts"),
        per_token=per_token,
        router_bias=True,
        balance_loss=hf.get("router_aux_loss_coef"),
    )
    alternating = [FULL if layer % 2 else SLIDING for layer in range(hf.get("num_hidden_layers"))]
    return decoder.read_decoder(
        hf,
        activation="swiglu_clamped",
        bias=True,
        attention_sinks=True,
        windows=from_layer_types(hf, hf.get("sliding_window"), alternating),
        experts=experts,
    )


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    experts = config.experts
    written = decoder.write_decoder(config)
    return {
        **written,
        # Without any scaling here, transformers would use its default for this family.
        "rope_scaling": written["rope_scaling"] or {"rope_type": "default"},
        "hidden_act": "silu",
        "attention_bias": config.bias,
        "swiglu_limit": CLAMP,
        "intermediate_size": config.hidden_width if experts.width is None else experts.width,
        "num_local_experts": experts.number,
        "num_experts_per_tok": experts.per_token,
        "router_aux_loss_coef": experts.balance_loss,
        "sliding_window": one_window(config.windows) or 128,
        "layer_types": layer_types(config.windows, config.num_layers),
    }


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "model.layers.{}.mlp", "layers.{}.experts"
    # In theirs, all experts of a layer are one tensor, with gate and up in alternate columns.
    gate_up = [f"{ours}.{{experts}}.gate", f"{ours}.{{experts}}.up"]
    down = f"{ours}.{{experts}}.down"
    experts = (
        Rule(f"{theirs}.router.weight", (f"{ours}.router.weight",), Linear()),
        Rule(f"{theirs}.router.bias", (f"{ours}.router.logit_bias",), Flat()),
        Rule(f"{theirs}.experts.gate_up_proj", tuple(f"{n}.weight" for n in gate_up), EveryExpert(Alternating(), 2)),
        Rule(f"{theirs}.experts.gate_up_proj_bias", tuple(f"{n}.bias" for n in gate_up), EveryExpert(Alternating(), 2)),
        Rule(f"{theirs}.experts.down_proj", (f"{down}.weight",), EveryExpert(Flat(2))),
        Rule(f"{theirs}.experts.down_proj_bias", (f"{down}.bias",), EveryExpert(Flat())),
        same("model.layers.{}.self_attn.sinks", "layers.{}.attention.sinks_N", dimensions=1),
    )
    return decoder.decoder_rules(decoder.PRE_NORMS, experts=experts)


GPT_OSS = Family(
    name="gpt_oss",
    model_type="gpt_oss",
    form="decoder",
    defaults={
        **decoder.DEFAULTS,
        "attention_bias": True,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "num_experts_per_tok": 4,
        "num_key_value_heads": 8,
        "num_local_experts": 128,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
        "rope_theta": 150_000.0,
        "router_aux_loss_coef": 0.001,
        "sliding_window": 128,
    },
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "GptOssForCausalLM",
    prefix="model.",
    aliases=decoder.ALIASES,
    buffers=decoder.BUFFERS,
)
