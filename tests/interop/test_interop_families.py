"""Every family: the answers of transformers to the same inputs, and round trips that lose no bit."""

import dataclasses

import hf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.interop import FAMILIES, load_pretrained, save_pretrained
from lmjax.interop.pretrained import module_of
from lmjax.interop.saving import families_for, their_config
from lmjax.masks import IntervalMask
from lmjax.models.cache import empty_cache
from lmjax.models.execution import ExecutionConfig
from lmjax.models.routing import ExpertsConfig
from lmjax.types import Stream


def written(model, folder, **options):
    """The folder a model is exported to, with the special ids it came with."""
    ids = {role: model.hf_config.get(f"{role}_token_id") for role in ("bos", "eos", "pad")}
    return save_pretrained(folder, model.config, model.params, ids=ids, **options)


def same_bits(left, right) -> bool:
    """Whether two trees have the same structure and the same bits."""
    return jax.tree.structure(left) == jax.tree.structure(right) and jax.tree.all(
        jax.tree.map(lambda a, b: a.dtype == b.dtype and a.tobytes() == b.tobytes(), left, right)
    )


def test_every_family_has_a_reference():
    assert {hf.loaded(name).family.name for name in hf.FOLDERS} == FAMILIES.keys()


@pytest.mark.parametrize("name", hf.FOLDERS)
def test_answers_are_those_of_transformers(name):
    inputs, theirs = hf.expected(name)
    model = hf.loaded(name)
    assert hf.largest_difference(model, inputs, hf.answers(model, inputs), theirs) < 1e-4
    assert hf.scored(model, inputs, theirs).std() > 0.1


@pytest.mark.parametrize("name", ["granite", "mamba2", "modernbert_decoder", "deepseek_v3", "gpt_oss"])
def test_cached_decoding_gives_their_answers_too(name):
    """A prompt of ten tokens at once, then token by token, as sampling does."""
    inputs, theirs = hf.expected(name)
    model = hf.loaded(name)
    tokens = jnp.asarray(inputs["input_ids"][:1], jnp.int32)
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]

    def extend(params, caches, tokens_BT, positions_BT):
        module = module_of(model.config, model.family).bind(params)
        mask = IntervalMask(start_BT=jnp.zeros_like(positions_BT), end_BT=positions_BT + 1)
        stream = Stream(tokens_BT=tokens_BT, positions_BT=positions_BT, mask=mask)
        hidden_BTD, caches = module.extend(stream, caches)
        return module.logits(hidden_BTD), caches

    extend = jax.jit(extend, compiler_options=hf.QUICK)
    caches = empty_cache(model.config, batch_size=1, length=20)
    said, caches = extend(model.params, caches, tokens[:, :10], positions[:, :10])
    answers = [said]
    for t in range(10, tokens.shape[1]):
        said, caches = extend(model.params, caches, tokens[:, t : t + 1], positions[:, t : t + 1])
        answers.append(said)
    np.testing.assert_allclose(np.concatenate(answers, axis=1), theirs["logits"][:1], atol=1e-4)


@pytest.mark.parametrize("name", hf.FOLDERS)
def test_round_trip_is_bit_equal(name, tmp_path):
    model = load_pretrained(hf.FOLDERS[name])
    assert written(model, tmp_path, family_name=model.family.name) is model.family
    again = load_pretrained(tmp_path)
    assert again.config == model.config and same_bits(model.params, again.params)


@pytest.mark.parametrize("name", hf.FOLDERS)
def test_a_family_is_found_for_a_model_that_names_none(name):
    model = hf.loaded(name)
    families = families_for(
        None,
        is_discriminator=model.family.form == "discriminator",
        reads="both_ways" if model.family.form == "encoder" else "forwards",
    )
    family, _ = their_config(model.config, families, ids={})
    # These differ in how they number rows and positions, not in what they compute.
    alike = {"roberta": "bert", "xlm-roberta": "bert", "camembert": "bert", "opt": "gpt2", "mt5": "t5"}
    assert family.name == ("opt" if name == "opt_post_norm" else alike.get(model.family.name, model.family.name))


@pytest.mark.parametrize(
    ("name", "fields", "places"),
    [
        (
            "gemma3_text",
            {"num_layers": 5, "windows": (3, None)},
            [("stacks", 0, 0), ("stacks", 1, 0), ("stacks", 0, 1), ("stacks", 1, 1), ("tail", 0, ...)],
        ),
        (
            "qwen3_moe",
            {"num_layers": 4, "experts": ExpertsConfig(number=3, width=24, first_dense=2)},
            [("lead", 0, ...), ("lead", 1, ...), ("stacks", 0, 0), ("stacks", 0, 1)],
        ),
    ],
)
def test_layers_are_the_same_however_they_are_stacked(name, fields, places, tmp_path):
    config = dataclasses.replace(hf.loaded(name).config, execution=ExecutionConfig(scan_layers=True), **fields)
    rng = np.random.default_rng(0)
    shapes = module_of(config, FAMILIES[name]).shapes
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    save_pretrained(tmp_path, config, params)
    flat = load_pretrained(tmp_path, execution=ExecutionConfig(scan_layers=False)).params
    blocks = [*flat.get("lead", {}).values(), *flat["tail"].values()]
    for block, (kind, member, group) in zip(blocks, places, strict=True):
        ours = jax.tree.map(lambda leaf, group=group: leaf[group], params[kind][f"{member:03d}"])
        assert same_bits(ours, block)
