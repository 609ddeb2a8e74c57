"""GPT-J (Wang & Komatsuzaki 2021): attention and feed-forward side by side, rotary positions on part of a head."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from lmjax.interop.families.gpt2 import ACTIVATIONS, their_activation
from lmjax.interop.family import Family, Ids
from lmjax.interop.hf_config import HuggingFaceConfig
from lmjax.interop.layouts import Flat, Linear, Shape
from lmjax.interop.table import HEAD, Rule, linear, norm, same
from lmjax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class NeighbouringPairs:
    """A projection [D, N, H] to queries or keys; theirs rotates the first ``rotated`` dimensions in pairs (2i, 2i + 1).

    Ours rotates the pairs (i, i + rotated / 2), so the dimensions of each head change places: all even ones come
    first. Queries and keys change in the same way, so their products stay the same.
    """

    rotated: int

    def shape(self, ours: Sequence[Shape]) -> Shape:
        """Returns the shape that :class:`Linear` gives."""
        return Linear().shape(ours)

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Puts the dimensions into neighbouring pairs, then converts as :class:`Linear` does."""
        (array,) = ours
        return Linear().to_theirs([array[..., np.argsort(self._places(array.shape[-1]))]])

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Converts as :class:`Linear` does, then puts the dimensions into two halves."""
        return [array[..., self._places(array.shape[-1])] for array in Linear().to_ours(theirs, shapes)]

    def _places(self, head_width: int) -> np.ndarray:
        """Returns, for each dimension of ours, its index in theirs, int [H]."""
        turned = np.arange(self.rotated)
        return np.concatenate([turned[::2], turned[1::2], np.arange(self.rotated, head_width)])


def _read(hf: HuggingFaceConfig, names: Collection[str]) -> ModelConfig:
    width, num_heads = hf.get("n_embd"), hf.get("n_head")
    return ModelConfig(
        vocab_size=hf.get("vocab_size"),
        width=width,
        num_layers=hf.get("n_layer"),
        num_heads=num_heads,
        feedforward_width=hf.get("n_inner", None),
        max_length=hf.get("n_positions"),
        positions="rope",
        rope_fraction=_fraction(hf.get("rotary_dim"), width // num_heads),
        residual="parallel",
        activation=hf.choice("activation_function", ACTIVATIONS),
        norm="layernorm",
        norm_epsilon=hf.get("layer_norm_epsilon"),
        bias=True,
        qkv_bias=False,
        out_bias=False,
        head_bias=True,
        tie_embeddings=hf.get("tie_word_embeddings"),
        dropout=hf.rate("resid_pdrop", "embd_pdrop"),
        attention_dropout=hf.get("attn_pdrop"),
        init_std=hf.get("initializer_range"),
        residual_init="plain",
    )


def _fraction(rotated: int, head_width: int) -> float:
    """Returns the share of a head that is rotated, such that rounding down gives the number of dimensions."""
    fraction = rotated / head_width
    return fraction if int(head_width * fraction) == rotated else math.nextafter(fraction, 1)


def _write(config: ModelConfig, ids: Ids) -> dict[str, Any]:
    return {
        "n_embd": config.width,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.feedforward_width,
        "n_positions": config.max_length,
        "rotary_dim": config.rotated_width,
        "activation_function": their_activation(config.activation),
        "layer_norm_epsilon": config.norm_epsilon,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout,
        "initializer_range": 0.02 if config.init_std is None else config.init_std,
    }


def _rules(values: Mapping[str, Any]) -> Sequence[Rule]:
    theirs, ours = "transformer.h.{}", "layers.{}"
    turned = NeighbouringPairs(values["rotary_dim"])
    return (
        same("transformer.wte.weight", "embedding.table_VD"),
        *norm(f"{theirs}.ln_1", f"{ours}.attention_norm"),
        Rule(f"{theirs}.attn.q_proj.weight", (f"{ours}.attention.query.weight",), turned),
        Rule(f"{theirs}.attn.k_proj.weight", (f"{ours}.attention.key.weight",), turned),
        *linear(f"{theirs}.attn.v_proj", f"{ours}.attention.value"),
        *linear(f"{theirs}.attn.out_proj", f"{ours}.attention.out", inputs=2),
        *linear(f"{theirs}.mlp.fc_in", f"{ours}.feedforward.up"),
        *linear(f"{theirs}.mlp.fc_out", f"{ours}.feedforward.down"),
        *norm("transformer.ln_f", "final_norm"),
        HEAD,
        Rule("lm_head.bias", ("head_bias_V",), Flat()),
    )


GPTJ = Family(
    name="gptj",
    model_type="gptj",
    form="decoder",
    defaults={
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "n_embd": 4096,
        "n_head": 16,
        "n_layer": 28,
        "n_positions": 2048,
        "resid_pdrop": 0.0,
        "rotary_dim": 64,
        "tie_word_embeddings": False,
    },
    read=_read,
    write=_write,
    rules=_rules,
    architecture=lambda config: "GPTJForCausalLM",
    prefix="transformer.",
    synonyms={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    aliases={"lm_head.weight": "transformer.wte.weight"},
    # Early versions stored causal masks and sines.
    buffers=r".*\.attn\.((masked_)?bias|embed_positions)",
)
