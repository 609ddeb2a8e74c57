"""The common parts of decoders like Llama (Touvron et al. 2023): RMSNorm, rotary positions, gated units."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import Linear
from lmjax.interop.rope_config import read_rope, write_rope
from lmjax.interop.table import HEAD, Rule, linear, norm, same
from lmjax.models.config import Activation, ModelConfig

GATED: dict[str, Activation] = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu_pytorch_tanh": "geglu",
    "gelu_new": "geglu",
    "gelu": "geglu_exact",
    "relu": "reglu",
}
"""From their name of a gate's activation to our name of the gated unit.

Where several names mean one unit, the first is written.
"""

DEFAULTS: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}

ALIASES = {"lm_head.weight": "model.embed_tokens.weight"}
BUFFERS = r".*\.rotary_emb\.inv_freq"


def their_gated(activation: str) -> str:
    """Returns their name of an activation; the inverse of :data:`GATED`.

    Other activations keep our name, which the export then notices.
    """
    return next((theirs for theirs, ours in GATED.items() if ours == activation), activation)


def read_sizes(hf: HuggingFaceConfig) -> dict[str, Any]:
    """Returns the fields that all these families have."""
    hf.ignore("is_decoder")
    width, num_heads = hf.get("hidden_size"), hf.get("num_attention_heads")
    head_width = hf.get("head_dim", None)
    return {
        "vocab_size": hf.get("vocab_size"),
        "width": width,
        "num_layers": hf.get("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": hf.get("num_key_value_heads", None) or num_heads,
        "head_width": None if head_width in (None, width / num_heads) else head_width,
        "feedforward_width": hf.get("intermediate_size"),
        "max_length": hf.get("max_position_embeddings"),
        "norm_epsilon": hf.get("rms_norm_eps"),
        "tie_embeddings": hf.get("tie_word_embeddings"),
        "attention_dropout": hf.get("attention_dropout"),
        "init_std": hf.get("initializer_range"),
        "residual_init": "plain",
    }


def read_biases(hf: HuggingFaceConfig) -> dict[str, Any]:
    """Returns the fields that say whether attention and feed-forward layers have biases."""
    attention, feedforward = hf.get("attention_bias"), hf.get("mlp_bias")
    return {"bias": feedforward, **({} if attention == feedforward else {"qkv_bias": attention, "out_bias": attention})}


def write_biases(config: ModelConfig) -> dict[str, Any]:
    """Returns their keys on biases; the inverse of :func:`read_biases`."""
    return {"attention_bias": config.bias if config.out_bias is None else config.out_bias, "mlp_bias": config.bias}


def read_decoder(hf: HuggingFaceConfig, **fields: Any) -> ModelConfig:
    """Returns the configuration of a model of these families; ``fields`` adds or replaces fields for one family."""
    rope = read_rope(hf, max_length=hf.get("max_position_embeddings"))
    common = {**read_sizes(hf), **rope, "activation": hf.choice("hidden_act", GATED)}
    return ModelConfig(**{**common, **fields})


def write_sizes(config: ModelConfig) -> dict[str, Any]:
    """Returns their keys; the inverse of :func:`read_sizes`."""
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.key_width,
        "intermediate_size": config.hidden_width,
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_epsilon,
        "attention_dropout": config.attention_dropout,
        "initializer_range": 0.02 if config.init_std is None else config.init_std,
    }


def write_head_width(config: ModelConfig) -> dict[str, Any]:
    """Returns the key ``head_dim`` where heads do not have the usual width, else nothing.

    This is for families whose files have no such key, although transformers reads it.
    """
    return {} if config.key_width * config.num_heads == config.width else {"head_dim": config.key_width}


def write_decoder(config: ModelConfig) -> dict[str, Any]:
    """Returns their configuration; the inverse of :func:`read_decoder`."""
    return {**write_sizes(config), **write_rope(config), "hidden_act": their_gated(config.activation)}


def attention_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Returns the table of the attention projections, and of the norms of queries and keys where there are any."""
    return (
        *linear(f"{theirs}.q_proj", f"{ours}.query"),
        *linear(f"{theirs}.k_proj", f"{ours}.key"),
        *linear(f"{theirs}.v_proj", f"{ours}.value"),
        *linear(f"{theirs}.o_proj", f"{ours}.out", inputs=2),
        *norm(f"{theirs}.q_norm", f"{ours}.query_norm"),
        *norm(f"{theirs}.k_norm", f"{ours}.key_norm"),
    )


def decoder_rules(
    norms: Mapping[str, str], *, attention: tuple[Rule, ...] | None = None, experts: tuple[Rule, ...] = ()
) -> tuple[Rule, ...]:
    """Returns the table of a decoder.

    Args:
      norms: from their name of each norm in a block to ours.
      attention: the table of attention; :func:`attention_rules` when None.
      experts: the table of a mixture of experts, see :func:`expert_rules`.
    """
    theirs, ours = "model.layers.{}", "layers.{}"
    return (
        same("model.embed_tokens.weight", "embedding.table_VD"),
        *(attention_rules(f"{theirs}.self_attn", f"{ours}.attention") if attention is None else attention),
        *linear(f"{theirs}.mlp.gate_proj", f"{ours}.feedforward.gate"),
        *linear(f"{theirs}.mlp.up_proj", f"{ours}.feedforward.up"),
        *linear(f"{theirs}.mlp.down_proj", f"{ours}.feedforward.down"),
        *(rule for name, our_name in norms.items() for rule in norm(f"{theirs}.{name}", f"{ours}.{our_name}")),
        *experts,
        *norm("model.norm", "final_norm"),
        HEAD,
    )


def expert_rules(theirs: str, *, gate: str, up: str, down: str) -> tuple[Rule, ...]:
    """Returns the table of a mixture of experts, from the names of its tensors."""
    ours = "layers.{}.experts"
    expert = f"{ours}.{{expert}}"
    return (
        Rule(f"model.layers.{{}}.{theirs}.gate.weight", (f"{ours}.router.weight",), Linear()),
        *linear(f"model.layers.{{}}.{theirs}.experts.{{expert}}.{gate}", f"{expert}.gate"),
        *linear(f"model.layers.{{}}.{theirs}.experts.{{expert}}.{up}", f"{expert}.up"),
        *linear(f"model.layers.{{}}.{theirs}.experts.{{expert}}.{down}", f"{expert}.down"),
    )


PRE_NORMS = {"input_layernorm": "attention_norm", "post_attention_layernorm": "feedforward_norm"}
"""From the names of norms in Llama, and in families that use the same names, to ours."""


def pre_norm_rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    """Returns the table of Llama, and of families that use the same names of norms."""
    return decoder_rules(PRE_NORMS)
