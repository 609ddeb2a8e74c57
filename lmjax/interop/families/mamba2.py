"""Mamba-2 (Dao & Gu 2024): only gated state-space layers, without attention and without feed-forward layers."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import Flat, Joined, Linear, Taps
from lmjax.interop.table import HEAD, Rule, linear, norm, same
from lmjax.models.config import ModelConfig
from lmjax.models.execution import ExecutionConfig
from lmjax.models.recurrent import Mamba2Config

_NO_LIMIT = ([0.0, math.inf], [0.0, {"__float__": "Infinity"}])
"""The two values with which transformers says that steps are not clamped."""


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    # These keys say how initial weights are drawn, and the precision of the residual stream, which is `dtype` here;
    # two are of earlier versions, and transformers has never read them.
    hf.ignore(
        "time_step_rank", "time_step_min", "time_step_max", "time_step_floor", "rescale_prenorm_residual",
        "residual_in_fp32", "norm_before_gate", "rms_norm",
    )  # fmt: skip
    hf.require("hidden_act", "silu", "swish")
    hf.require("time_step_limit", *_NO_LIMIT)
    sizes = Mamba2Config(
        expansion=hf.get("expand"),
        head_width=hf.get("head_dim"),
        state_width=hf.get("state_size"),
        groups=hf.get("n_groups"),
        convolution=hf.get("conv_kernel"),
        convolution_bias=hf.get("use_conv_bias"),
    )
    width = hf.get("hidden_size")
    hf.require("num_heads", sizes.num_heads(width))
    return ModelConfig(
        vocab_size=hf.get("vocab_size"),
        width=width,
        num_layers=hf.get("num_hidden_layers"),
        # There is no attention, so the number of heads has no effect.
        num_heads=1,
        mixers=("mamba2",),
        mamba2=sizes,
        execution=ExecutionConfig(mamba2_chunk=hf.get("chunk_size")),
        positions="none",
        feedforward_width=0,
        bias=hf.get("use_bias"),
        norm_epsilon=hf.get("layer_norm_epsilon"),
        tie_embeddings=hf.get("tie_word_embeddings"),
        init_std=hf.get("initializer_range"),
        residual_init="plain",
    )


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    sizes = config.mamba2
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "expand": sizes.expansion,
        "head_dim": sizes.head_width,
        "num_heads": sizes.num_heads(config.width),
        "state_size": sizes.state_width,
        "n_groups": sizes.groups,
        "conv_kernel": sizes.convolution,
        "use_conv_bias": sizes.convolution_bias,
        "chunk_size": config.execution.mamba2_chunk,
        "use_bias": config.bias,
        "layer_norm_epsilon": config.norm_epsilon,
        "initializer_range": 0.02 if config.init_std is None else config.init_std,
    }


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "backbone.layers.{}.mixer", "layers.{}.mamba2"
    inputs = [f"{ours}.{name}" for name in ("gate", "value", "key", "query", "step")]
    convolved = [f"{ours}.{name}_convolution" for name in ("value", "key", "query")]
    return (
        same("backbone.embeddings.weight", "embedding.table_VD"),
        *norm("backbone.layers.{}.norm", "layers.{}.attention_norm"),
        Rule(f"{theirs}.in_proj.weight", tuple(f"{name}.weight" for name in inputs), Joined(Linear())),
        Rule(f"{theirs}.in_proj.bias", tuple(f"{name}.bias" for name in inputs), Joined(Flat())),
        Rule(f"{theirs}.conv1d.weight", tuple(convolved), Joined(Taps())),
        Rule(f"{theirs}.conv1d.bias", tuple(f"{name}_bias" for name in convolved), Joined(Flat())),
        same(f"{theirs}.dt_bias", f"{ours}.step_bias_N", dimensions=1),
        same(f"{theirs}.A_log", f"{ours}.log_decay_N", dimensions=1),
        same(f"{theirs}.D", f"{ours}.skip_N", dimensions=1),
        same(f"{theirs}.norm.weight", f"{ours}.norm_scale_NP", dimensions=1),
        *linear(f"{theirs}.out_proj", f"{ours}.out", inputs=2),
        *norm("backbone.norm_f", "final_norm"),
        HEAD,
    )


MAMBA2 = Family(
    name="mamba2",
    model_type="mamba2",
    form="decoder",
    defaults={
        "chunk_size": 256,
        "conv_kernel": 4,
        "expand": 2,
        "head_dim": 64,
        "hidden_act": "silu",
        "initializer_range": 0.1,
        "layer_norm_epsilon": 1e-5,
        "n_groups": 8,
        "num_heads": 128,
        "state_size": 128,
        "tie_word_embeddings": False,
        "use_bias": False,
        "use_conv_bias": True,
    },
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "Mamba2ForCausalLM",
    prefix="backbone.",
    aliases={"lm_head.weight": "backbone.embeddings.weight"},
)
