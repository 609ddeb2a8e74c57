"""T5 1.0 and 1.1 (Raffel et al. 2020), mT5 (Xue et al. 2021) and umT5 (Chung et al. 2023)."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families.decoder import GATED, their_gated
from lmjax.interop.families.gpt2 import ACTIVATIONS, their_activation
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.table import HEAD, Rule, linear, norm, same
from lmjax.models.config import GATED as OUR_GATED
from lmjax.models.config import Activation, ModelConfig


def _read_t5(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    # Version 1.1 says this with an untied head; transformers now has a key of its own for it.
    return _read(hf, names, scaled=hf.get("scale_decoder_outputs", hf.get("tie_word_embeddings", None) is not False))


def _read_mt5(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    return _read(hf, names, scaled=False)


def _read_umt5(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    return dataclasses.replace(_read_t5(hf, names), relative_per_layer=True)


def _read(hf: HuggingFaceConfig, names: Collection[str], *, scaled: bool) -> ModelConfig:
    # The first two follow from feed_forward_proj; the third is not needed, since the tensors show whether it is so.
    hf.ignore("dense_act_fn", "is_gated_act", "tie_word_embeddings")
    hf.ignore("is_decoder")
    num_layers = hf.get("num_layers")
    width, num_heads, key_width = hf.get("d_model"), hf.get("num_heads"), hf.get("d_kv")
    return ModelConfig(
        vocab_size=hf.get("vocab_size"),
        width=width,
        encoder_layers=num_layers,
        num_layers=hf.get("num_decoder_layers", None) or num_layers,
        num_heads=num_heads,
        head_width=None if key_width * num_heads == width else key_width,
        feedforward_width=hf.get("d_ff"),
        positions="relative",
        relative_buckets=hf.get("relative_attention_num_buckets"),
        relative_max_distance=hf.get("relative_attention_max_distance"),
        relative_past_only=True,
        activation=_activation(hf),
        norm_epsilon=hf.get("layer_norm_epsilon"),
        attention_scale=1.0,
        logit_scale=width**-0.5 if scaled else 1.0,
        tie_embeddings=HEAD.theirs not in names,
        dropout=hf.get("dropout_rate"),
        attention_dropout=hf.get("dropout_rate"),
        init_std=None,
        embedding_init_std=1.0,
        residual_init="plain",
    )


def _activation(hf: HuggingFaceConfig) -> Activation:
    gate, _, name = hf.get("feed_forward_proj").rpartition("-")
    # "gated-gelu" means the approximation: the class of transformers makes this exception itself.
    name = "gelu_new" if (gate, name) == ("gated", "gelu") else name
    table: Mapping[str, Activation] = GATED if gate else ACTIVATIONS
    if gate not in ("", "gated") or name not in table:
        raise hf.refusal("feed_forward_proj", hf.get("feed_forward_proj"), f"known are {', '.join(table)}")
    return table[name]


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    if config.activation == "geglu":
        activation = "gated-gelu"
    elif config.activation in OUR_GATED:
        activation = f"gated-{their_gated(config.activation)}"
    else:
        activation = their_activation(config.activation)
    return {
        "d_model": config.width,
        "d_kv": config.key_width,
        "d_ff": config.hidden_width,
        "num_layers": config.encoder_layers,
        "num_decoder_layers": config.num_layers,
        "num_heads": config.num_heads,
        "relative_attention_num_buckets": config.relative_buckets,
        "relative_attention_max_distance": config.relative_max_distance,
        "feed_forward_proj": activation,
        "layer_norm_epsilon": config.norm_epsilon,
        "dropout_rate": config.dropout,
        "is_encoder_decoder": True,
        "scale_decoder_outputs": config.logit_scale != 1.0,
        "decoder_start_token_id": ids.get("decoder_start", ids.get("pad")),
    }


def _write_mt5(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return {key: value for key, value in _write(config, ids).items() if key != "scale_decoder_outputs"}


def _rules(values: Mapping[str, Any]) -> Sequence[Rule]:
    gated = values["feed_forward_proj"].startswith("gated-")
    return (
        same("shared.weight", "embedding.table_VD"),
        *_stack("encoder", "encoder.", gated=gated),
        *_stack("decoder", "", gated=gated),
        HEAD,
    )


def _stack(theirs: str, ours: str, *, gated: bool) -> tuple[Rule, ...]:
    block, layers = f"{theirs}.block.{{}}.layer", f"{ours}layers.{{}}"
    last = 1 if theirs == "encoder" else 2
    attentions = [("0.SelfAttention", "attention")] + ([("1.EncDecAttention", "cross_attention")] if last == 2 else [])
    projections = [
        rule
        for name, our_name in attentions
        for part, our_part, inputs in (("q", "query", 1), ("k", "key", 1), ("v", "value", 1), ("o", "out", 2))
        for rule in linear(f"{block}.{name}.{part}", f"{layers}.{our_name}.{our_part}", inputs=inputs)
    ]
    norms = ("attention_norm", *(("cross_norm",) if last == 2 else ()), "feedforward_norm")
    dense = f"{block}.{last}.DenseReluDense"
    # wi_0 goes through the activation.
    inputs = {"wi_0": "gate", "wi_1": "up"} if gated else {"wi": "up"}
    return (
        same(f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", f"{ours}relative_RN"),
        # umT5 has a table in each layer.
        same(f"{block}.0.SelfAttention.relative_attention_bias.weight", f"{layers}.attention.relative_RN"),
        *projections,
        *(rule for place, name in enumerate(norms) for rule in norm(f"{block}.{place}.layer_norm", f"{layers}.{name}")),
        *(rule for name, our in inputs.items() for rule in linear(f"{dense}.{name}", f"{layers}.feedforward.{our}")),
        *linear(f"{dense}.wo", f"{layers}.feedforward.down"),
        *norm(f"{theirs}.final_layer_norm", f"{ours}final_norm"),
    )


T5 = Family(
    name="t5",
    model_type="t5",
    form="encoder_decoder",
    defaults={
        "d_kv": 64,
        "dropout_rate": 0.1,
        "feed_forward_proj": "relu",
        "layer_norm_epsilon": 1e-6,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
    },
    read=_read_t5,
    write=_write,
    rules=_rules,
    architecture=lambda config: "T5ForConditionalGeneration",
    prefix="",
    synonyms={
        "head_dim": "d_kv",
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    },
    aliases={
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    },
    # Of no effect: there is no relative bias between decoder and encoder.
    buffers=r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
)

MT5 = dataclasses.replace(
    T5,
    name="mt5",
    model_type="mt5",
    defaults={**T5.defaults, "feed_forward_proj": "gated-gelu"},
    read=_read_mt5,
    write=_write_mt5,
    architecture=lambda config: "MT5ForConditionalGeneration",
)

UMT5 = dataclasses.replace(
    T5,
    name="umt5",
    model_type="umt5",
    defaults={**T5.defaults, "feed_forward_proj": "gated-gelu"},
    read=_read_umt5,
    architecture=lambda config: "UMT5ForConditionalGeneration",
)
