"""BART (Lewis et al. 2020)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families.gpt2 import ACTIVATIONS, their_activation
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import FirstRowsUnused, Row
from lmjax.interop.table import HEAD, Rule, linear, norm, same
from lmjax.models.config import ModelConfig

# Position 0 is in row 2 of its tables; so it was in fairseq, the library BART comes from.
_POSITIONS = FirstRowsUnused(2)


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    hf.require("normalize_before", False)
    hf.require("normalize_embedding", True)
    hf.require("add_final_layer_norm", False)
    hf.require("static_position_embeddings", False)
    hf.require("extra_pos_embeddings", 2)
    heads, encoder_heads = hf.get("decoder_attention_heads"), hf.get("encoder_attention_heads")
    hidden, encoder_hidden = hf.get("decoder_ffn_dim"), hf.get("encoder_ffn_dim")
    return ModelConfig(
        vocab_size=hf.get("vocab_size"),
        width=hf.get("d_model"),
        encoder_layers=hf.get("encoder_layers"),
        num_layers=hf.get("decoder_layers"),
        num_heads=heads,
        encoder_heads=None if encoder_heads == heads else encoder_heads,
        feedforward_width=hidden,
        encoder_feedforward_width=None if encoder_hidden == hidden else encoder_hidden,
        max_length=hf.get("max_position_embeddings"),
        positions="learned",
        residual="post",
        activation=hf.choice("activation_function", ACTIVATIONS),
        norm="layernorm",
        final_norm=False,
        embedding_norm=True,
        bias=True,
        head_bias="final_logits_bias" in names,
        tie_embeddings=hf.get("tie_word_embeddings"),
        scale_embeddings=hf.get("scale_embedding"),
        dropout=hf.get("dropout"),
        attention_dropout=hf.get("attention_dropout"),
        init_std=hf.get("init_std"),
        residual_init="plain",
    )


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    encoder = config.encoder if config.encoder_layers else config
    return {
        "d_model": config.width,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.num_layers,
        "encoder_attention_heads": encoder.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": encoder.hidden_width,
        "decoder_ffn_dim": config.hidden_width,
        "max_position_embeddings": config.max_length,
        "activation_function": their_activation(config.activation),
        "scale_embedding": config.scale_embeddings,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "init_std": 0.02 if config.init_std is None else config.init_std,
        "is_encoder_decoder": True,
        "decoder_start_token_id": ids.get("decoder_start", ids.get("eos")),
        "forced_eos_token_id": ids.get("eos"),
    }


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    return (
        same("model.shared.weight", "embedding.table_VD"),
        *_stack("model.encoder", "encoder."),
        *_stack("model.decoder", ""),
        Rule("final_logits_bias", ("head_bias_V",), Row()),
        HEAD,
    )


def _stack(theirs: str, ours: str) -> tuple[Rule, ...]:
    block, layers = f"{theirs}.layers.{{}}", f"{ours}layers.{{}}"
    parts = (("q_proj", "query", 1), ("k_proj", "key", 1), ("v_proj", "value", 1), ("out_proj", "out", 2))
    return (
        Rule(f"{theirs}.embed_positions.weight", (f"{ours}position_embedding.table_VD",), _POSITIONS),
        *norm(f"{theirs}.layernorm_embedding", f"{ours}embedding_norm"),
        *(
            rule
            for name, our_name in (("self_attn", "attention"), ("encoder_attn", "cross_attention"))
            for part, our_part, inputs in parts
            for rule in linear(f"{block}.{name}.{part}", f"{layers}.{our_name}.{our_part}", inputs=inputs)
        ),
        *norm(f"{block}.self_attn_layer_norm", f"{layers}.attention_norm"),
        *norm(f"{block}.encoder_attn_layer_norm", f"{layers}.cross_norm"),
        *linear(f"{block}.fc1", f"{layers}.feedforward.up"),
        *linear(f"{block}.fc2", f"{layers}.feedforward.down"),
        *norm(f"{block}.final_layer_norm", f"{layers}.feedforward_norm"),
    )


BART = Family(
    name="bart",
    model_type="bart",
    form="encoder_decoder",
    defaults={
        "activation_function": "gelu",
        "attention_dropout": 0.0,
        "dropout": 0.1,
        "init_std": 0.02,
        "max_position_embeddings": 1024,
        "scale_embedding": False,
        "tie_word_embeddings": True,
    },
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "BartForConditionalGeneration",
    prefix="model.",
    synonyms={
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    },
    aliases={
        "lm_head.weight": "model.shared.weight",
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
    },
    buffers=r"model\.(encoder|decoder)\.version",
)
