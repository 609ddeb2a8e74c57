"""GPT-2 (Radford et al. 2019)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import Flat, Joined, Untransposed
from lmjax.interop.table import HEAD, Rule, norm, same
from lmjax.models.config import Activation, ModelConfig

ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "relu2": "relu2",
}
"""From their name of an activation without a gate to ours; where several mean the same, the first is written."""


def their_activation(activation: str) -> str:
    """Returns their name of an activation; the inverse of :data:`ACTIVATIONS`.

    A gated unit keeps our name, which the export then notices.
    """
    return next((theirs for theirs, ours in ACTIVATIONS.items() if ours == activation), activation)


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    return read_gpt2(hf)


def read_gpt2(hf: HuggingFaceConfig, **fields: Any) -> ModelConfig:
    """Returns our configuration from one with GPT-2's keys; ``fields`` adds fields for one family."""
    hf.require("scale_attn_weights", True)
    hf.require("scale_attn_by_inverse_layer_idx", False)
    hf.ignore("is_decoder")
    return ModelConfig(
        vocab_size=hf.get("vocab_size"),
        width=hf.get("n_embd"),
        num_layers=hf.get("n_layer"),
        num_heads=hf.get("n_head"),
        feedforward_width=hf.get("n_inner", None),
        max_length=hf.get("n_positions"),
        positions="learned",
        activation=hf.choice("activation_function", ACTIVATIONS),
        norm="layernorm",
        norm_epsilon=hf.get("layer_norm_epsilon"),
        bias=True,
        tie_embeddings=hf.get("tie_word_embeddings"),
        dropout=hf.rate("resid_pdrop", "embd_pdrop"),
        attention_dropout=hf.get("attn_pdrop"),
        init_std=hf.get("initializer_range"),
        **fields,
    )


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return write_gpt2(config)


def write_gpt2(config: ModelConfig) -> dict[str, Any]:
    """Returns their configuration; the inverse of :func:`read_gpt2`."""
    return {
        "n_embd": config.width,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.feedforward_width,
        "n_positions": config.max_length,
        "activation_function": their_activation(config.activation),
        "layer_norm_epsilon": config.norm_epsilon,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout,
    }


def _projection(theirs: str, ours: str, *, inputs: int = 1) -> tuple[Rule, Rule]:
    return (
        Rule(f"{theirs}.weight", (f"{ours}.weight",), Untransposed(inputs)),
        Rule(f"{theirs}.bias", (f"{ours}.bias",), Flat()),
    )


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "transformer.h.{}", "layers.{}"
    qkv = [f"{ours}.attention.{name}" for name in ("query", "key", "value")]
    return (
        same("transformer.wte.weight", "embedding.table_VD"),
        same("transformer.wpe.weight", "position_embedding.table_VD"),
        *norm(f"{theirs}.ln_1", f"{ours}.attention_norm"),
        Rule(f"{theirs}.attn.c_attn.weight", tuple(f"{n}.weight" for n in qkv), Joined(Untransposed(), axis=1)),
        Rule(f"{theirs}.attn.c_attn.bias", tuple(f"{n}.bias" for n in qkv), Joined(Flat())),
        *_projection(f"{theirs}.attn.c_proj", f"{ours}.attention.out", inputs=2),
        *norm(f"{theirs}.ln_2", f"{ours}.feedforward_norm"),
        *_projection(f"{theirs}.mlp.c_fc", f"{ours}.feedforward.up"),
        *_projection(f"{theirs}.mlp.c_proj", f"{ours}.feedforward.down"),
        *norm("transformer.ln_f", "final_norm"),
        HEAD,
    )


DEFAULTS: dict[str, Any] = {
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "resid_pdrop": 0.1,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-5,
    "n_positions": 1024,
    "tie_word_embeddings": True,
}

SYNONYMS = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

GPT2 = Family(
    name="gpt2",
    model_type="gpt2",
    form="decoder",
    defaults=DEFAULTS,
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "GPT2LMHeadModel",
    prefix="transformer.",
    synonyms=SYNONYMS,
    aliases={"lm_head.weight": "transformer.wte.weight"},
    # Early versions stored causal masks.
    buffers=r".*\.attn\.(masked_)?bias",
)
