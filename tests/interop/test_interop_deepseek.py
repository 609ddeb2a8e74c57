"""DeepSeek-V3's variants: what is refused of them by name, and a model that has no experts at all."""

import dataclasses
import json
import shutil

import hf
import jax
import numpy as np
import pytest

from lmjax.interop import load_pretrained, save_pretrained
from lmjax.interop.pretrained import module_of
from lmjax.models.routing import ExpertsConfig


def changed(folder, **values):
    """A copy of the reference with other values in its config.json."""
    shutil.copytree(hf.FOLDERS["deepseek_v3"], folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"topk_method": "greedy"}, "topk_method='greedy' is not implemented"),
        ({"scoring_func": "softmax"}, "scoring_func='softmax' is not implemented"),
        ({"moe_layer_freq": 2}, "moe_layer_freq=2 is not implemented"),
        ({"attention_bias": True}, "attention_bias=True is not implemented"),
        ({"n_shared_experts": 0}, "n_shared_experts=0 is not implemented"),
        ({"num_key_value_heads": 2}, "num_key_value_heads=2 is not implemented"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"model_type": "deepseek_v2"}, "model_type 'deepseek_v2' is not known"),
    ],
)
def test_what_differs_is_refused_by_name(values, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        load_pretrained(changed(tmp_path / "theirs", **values))


def test_the_scales_of_stretched_positions_by_hand():
    """With mscale 0.8 and mscale_all_dim 0.6 at 4 times the context, of keys 6 + 4 wide."""
    config = hf.loaded("deepseek_v3").config
    of_turned, of_all = 1 + 0.1 * 0.8 * np.log(4), 1 + 0.1 * 0.6 * np.log(4)
    assert config.rope_scaling.attention_factor == pytest.approx(of_turned / of_all)
    assert config.attention_scale == pytest.approx(of_all**2 / np.sqrt(6 + 4))


def test_without_experts_it_is_a_model_too(tmp_path):
    config = dataclasses.replace(hf.loaded("deepseek_v3").config, experts=ExpertsConfig())
    rng = np.random.default_rng(0)
    shapes = module_of(config, hf.loaded("deepseek_v3").family).shapes
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    assert save_pretrained(tmp_path, config, params).name == "deepseek_v3"
    again = load_pretrained(tmp_path, execution=config.execution)
    assert again.config == config
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
