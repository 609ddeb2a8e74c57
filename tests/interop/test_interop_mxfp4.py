"""gpt-oss in MXFP4: four-bit numbers by hand, folders that hold them, and what is written of them."""

import itertools
import json
import shutil

import hf
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lmjax.interop import load_pretrained, save_pretrained
from lmjax.interop.mxfp4 import dequantise

QUANTISED = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}


def number(bits: int, exponent: int) -> float:
    """One of the sixteen, from sign, exponent and mantissa, as the format defines them."""
    sign, power, mantissa = bits >> 3, (bits >> 1) & 3, bits & 1
    magnitude = mantissa / 2 if power == 0 else (1 + mantissa / 2) * 2.0 ** (power - 1)
    return (-1.0) ** sign * magnitude * 2.0 ** (exponent - 127)


def quantised_folder(folder):
    """The reference with random experts in MXFP4, and what those are, number by number."""
    shutil.copytree(hf.FOLDERS["gpt_oss"], folder)
    tensors, plain = load_file(folder / "model.safetensors"), {}
    rng = np.random.default_rng(0)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        number_experts, inputs, outputs = tensors.pop(name).shape
        blocks = rng.integers(0, 256, (number_experts, outputs, inputs // 32, 16)).astype(np.uint8)
        scales = rng.integers(120, 127, blocks.shape[:-1]).astype(np.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        value = np.empty((number_experts, inputs, outputs), np.float32)
        for expert, output, group, byte in itertools.product(*map(range, blocks.shape)):
            both, exponent = int(blocks[expert, output, group, byte]), int(scales[expert, output, group])
            value[expert, 32 * group + 2 * byte, output] = number(both & 15, exponent)
            value[expert, 32 * group + 2 * byte + 1, output] = number(both >> 4, exponent)
        plain[name] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": QUANTISED}))
    return plain


def test_every_number_and_every_scale():
    # All sixteen twice: low halves are the even numbers.
    pairs = np.array([2 * i % 16 + 16 * ((2 * i + 1) % 16) for i in range(16)], np.uint8)
    blocks = np.broadcast_to(pairs, (255, 1, 16))
    scales = np.arange(255, dtype=np.uint8)[:, None]
    expected = [[number(i % 16, exponent) for i in range(32)] for exponent in range(255)]
    found = dequantise(blocks, scales)
    # The largest power times the largest numbers are beyond float32.
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found, np.array(expected).astype(np.float32))
    assert found[127, :8].tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6] and found[128, 15] == -12


def test_a_quantised_folder_is_read_exactly_and_written_in_bfloat16(tmp_path):
    plain = quantised_folder(tmp_path / "theirs")
    model = load_pretrained(tmp_path / "theirs")
    experts = model.params["stacks"]["000"]["experts"]
    first = plain["model.layers.0.mlp.experts.gate_up_proj"]
    np.testing.assert_array_equal(experts["gate"]["weight"][0], first[:, :, 0::2])
    np.testing.assert_array_equal(experts["up"]["weight"][0], first[:, :, 1::2])
    down = model.params["stacks"]["001"]["experts"]["down"]["weight"][0]
    np.testing.assert_array_equal(down, plain["model.layers.1.mlp.experts.down_proj"])
    save_pretrained(tmp_path / "ours", model.config, model.params, dtype="bfloat16")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["model_type"] == "gpt_oss" and "quantization_config" not in config
    again = load_pretrained(tmp_path / "ours")
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config=.*only 'mxfp4' is"),
        ({"swiglu_limit": 10.0}, "swiglu_limit=10.0 is not implemented"),
        ({"experts_per_token": 3}, "experts_per_token=3 is not implemented"),
    ],
)
def test_what_would_compute_something_else_is_refused(change, words, tmp_path):
    shutil.copytree(hf.FOLDERS["gpt_oss"], tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=words):
        load_pretrained(tmp_path / "theirs")


@pytest.mark.parametrize("damage", ["cut", "not a scale", "not bytes"])
def test_damaged_blocks_are_named(damage, tmp_path):
    quantised_folder(tmp_path / "theirs")
    path = tmp_path / "theirs" / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.mlp.experts.down_proj"
    if damage == "cut":
        tensors[f"{name}_blocks"] = tensors[f"{name}_blocks"][..., :8]
    elif damage == "not a scale":
        tensors[f"{name}_scales"] = tensors[f"{name}_scales"] * 0 + 255
    else:
        tensors[f"{name}_scales"] = tensors[f"{name}_scales"].astype(np.float32)
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, path)
    with pytest.raises(ValueError, match=rf"tensor '{name}_(blocks|scales)'.*download it again"):
        load_pretrained(tmp_path / "theirs")
