"""ModernBERT as a decoder (Ettin: Weller et al. 2025): the encoder's blocks with a causal mask."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lmjax.interop.families import modernbert
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import Flat, Joined, Linear
from lmjax.interop.table import Rule, linear, norm, same
from lmjax.interop.windows import one_window
from lmjax.models.config import ModelConfig

_QKV = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"))


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    window = hf.get("local_attention") // 2
    # This key repeats the window, as transformers computes it.
    hf.require("sliding_window", window, None)
    return modernbert.read_model(hf, window=window)


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    window = one_window(config.windows) or 64
    # Only the id of the end may be missing there, and the id of padding must be in the token table.
    end = ids.get("eos") or 0
    begin = end if ids.get("bos") is None else ids["bos"]
    special = {
        "bos_token_id": begin,
        "pad_token_id": end if ids.get("pad") is None else ids["pad"],
        "cls_token_id": begin if ids.get("cls") is None else ids["cls"],
        "sep_token_id": end if ids.get("sep") is None else ids["sep"],
    }
    return {**modernbert.write_model(config, ids), **special, "local_attention": 2 * window}


def _rules(_: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "model.layers.{}", "layers.{}"
    # The half that goes through the activation comes first.
    gated = [f"{ours}.feedforward.{name}" for name in ("gate", "up")]
    return (
        same("model.embeddings.tok_embeddings.weight", "embedding.table_VD"),
        *norm("model.embeddings.norm", "embedding_norm"),
        *norm(f"{theirs}.attn_norm", f"{ours}.attention_norm"),
        *(rule for name, our_name in _QKV for rule in linear(f"{theirs}.attn.{name}", f"{ours}.attention.{our_name}")),
        *linear(f"{theirs}.attn.Wo", f"{ours}.attention.out", inputs=2),
        *norm(f"{theirs}.mlp_norm", f"{ours}.feedforward_norm"),
        Rule(f"{theirs}.mlp.Wi.weight", tuple(f"{n}.weight" for n in gated), Joined(Linear())),
        Rule(f"{theirs}.mlp.Wi.bias", tuple(f"{n}.bias" for n in gated), Joined(Flat())),
        *linear(f"{theirs}.mlp.Wo", f"{ours}.feedforward.down"),
        *norm("model.final_norm", "final_norm"),
        *linear("lm_head.dense", "head_dense"),
        *norm("lm_head.norm", "head_norm"),
        Rule("decoder.weight", ("head_weight_DV",), Linear()),
        Rule("decoder.bias", ("head_bias_V",), Flat()),
    )


MODERNBERT_DECODER = Family(
    name="modernbert-decoder",
    model_type="modernbert-decoder",
    form="decoder",
    defaults=modernbert.MODERNBERT.defaults,
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "ModernBertDecoderForCausalLM",
    prefix="model.",
    aliases=modernbert.MODERNBERT.aliases,
    unused=modernbert.unused,
)
