"""What the tests of this folder share: the reference folders, and what our models answer to the same inputs."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from lmjax import masks
from lmjax.interop import Pretrained, load_pretrained
from lmjax.interop.pretrained import module_of
from lmjax.models.execution import ExecutionConfig
from lmjax.models.with_extras import model_of
from lmjax.objectives.replaced_token import replaced_logits
from lmjax.types import make_stream

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "hf"
FOLDERS = {path.parent.name: path.parent for path in sorted(GOLDEN.glob("*/config.json"))}
ANSWERS = ("logits", "states", "pair_logits")

# Compiling is most of what these tests cost, and nothing runs twice.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@functools.cache
def loaded(name: str) -> Pretrained:
    """A reference model, unrolled and without rematerialisation."""
    return load_pretrained(FOLDERS[name], execution=ExecutionConfig(remat="none", attention="xla"))


def expected(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The inputs and the answers of a reference folder."""
    with np.load(FOLDERS[name] / "expected.npz") as file:
        arrays = dict(file)
    answers = {key: arrays.pop(key) for key in ANSWERS if key in arrays}
    return arrays, answers


def answers(model: Pretrained, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a model of ours says: padding is segment 0, the texts of a pair are types 0 and 1."""

    def compute(params, given):
        module = module_of(model.config, model.family).bind(params)
        mask_BT = given.get("attention_mask", jnp.ones_like(given["input_ids"]))
        is_causal = model.family.form == "decoder"
        stream = make_stream(
            given["input_ids"],
            mask_BT,
            "causal" if is_causal else "bidirectional",
            types_BT=given.get("token_type_ids"),
        )
        if model.family.form == "encoder_decoder":
            target = make_stream(given["decoder_input_ids"], None, "causal")
            cross_mask = masks.cross(jnp.ones_like(target.tokens_BT), mask_BT)
            return {"logits": module.logits(module(target, encoder=stream, cross_mask=cross_mask).states_BTD)}
        hidden_BTD = model_of(module)(stream).states_BTD
        if model.family.form == "discriminator":
            return {"logits": replaced_logits(module, hidden_BTD)}
        said = {"states": hidden_BTD} if model.new else {"logits": module.logits(hidden_BTD)}
        return said | ({"pair_logits": module.pair_logits(hidden_BTD[:, 0])} if model.config.pair_head else {})

    given = {key: jnp.asarray(value, jnp.int32) for key, value in inputs.items()}
    shapes = module_of(model.config, model.family).shapes
    head = {name: jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes[name]) for name in model.new}
    said = jax.jit(compute, compiler_options=QUICK)({**model.params, **head}, given)
    return {key: np.asarray(value) for key, value in said.items()}


def scored(model: Pretrained, inputs: dict[str, np.ndarray], answers: dict[str, np.ndarray]) -> np.ndarray:
    """The logits or states that mean something: all of a decoder behind an encoder, else those of tokens."""
    values = answers["states" if model.new else "logits"]
    if model.family.form == "encoder_decoder" or "attention_mask" not in inputs:
        return values
    return values[inputs["attention_mask"] > 0]


def largest_difference(
    model: Pretrained, inputs: dict[str, np.ndarray], ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> float:
    """Largest absolute difference of any answer."""
    assert ours.keys() == theirs.keys()
    differences = [np.abs(scored(model, inputs, ours) - scored(model, inputs, theirs)).max()]
    differences += [np.abs(ours[key] - theirs[key]).max() for key in ours if key == "pair_logits"]
    return float(max(differences))


def divergence(
    model: Pretrained, inputs: dict[str, np.ndarray], ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> float:
    """Largest Kullback-Leibler divergence of a position, in float64; of two classes for a single logit."""
    logs = []
    for said in (ours, theirs):
        logits = scored(model, inputs, said).astype(np.float64)
        if model.family.form == "discriminator":
            logits = np.stack([logits, np.zeros_like(logits)], axis=-1)
        logits = logits - logits.max(axis=-1, keepdims=True)
        logs.append(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))
    return float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=-1).max())
